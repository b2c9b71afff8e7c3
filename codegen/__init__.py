"""From IR to kernels, packed weights and an artifact on disk."""
