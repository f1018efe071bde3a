"""ConViT and CvT on PaddlePaddle."""

from __future__ import annotations

from passl.paddle_settings import prepare_for_paddle

__version__ = "0.1.0"
__all__ = ["Model", "create_model", "list_models"]
prepare_for_paddle()


def __getattr__(name: str):
    # Networks need paddle, which takes seconds to import; `import passl` alone does not.
    if name in __all__:
        from passl.modeling import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
