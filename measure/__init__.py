"""What a model costs: time beside the machine's limits, and quality beside a reference."""
