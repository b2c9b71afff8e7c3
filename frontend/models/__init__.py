"""Model definitions by `model_type`. A new model is one file with a `build` function and a row."""

from firstlight.frontend.models import deepseek_v4

MODELS = {"deepseek_v4": deepseek_v4.build}
