"""Networks. `from passl.modeling import Model` loads paddle; importing a registry does not."""

from passl.utils.registry import Registry

LOSSES = Registry("loss", ["passl.modeling.losses"])
"""A loss is called with logits [B, classes] float32 and labels [B] int64, or targets [B, classes]
float32 that mixup has made of them, and gives a scalar.
"""


def __getattr__(name: str):
    if name == "Model":
        from passl.modeling.classifier import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
