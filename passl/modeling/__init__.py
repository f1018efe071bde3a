"""Networks and losses. `from passl.modeling import Model` imports paddle; a registry does not."""

from passl.utils.registry import Registry

LOSSES = Registry("loss", ["passl.modeling.losses", "passl.modeling.segmentation_losses"])
"""A loss takes logits [B, classes] float32 and labels [B] int64, or mixed targets [B, classes]
float32, and returns a scalar. Its class attribute `tasks` names the tasks of the datasets whose
labels it takes; the default is `("classification",)`.
"""


def __getattr__(name: str):
    if name == "Model":
        from passl.modeling.classifier import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
