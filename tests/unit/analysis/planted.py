"""Networks whose attention goes to one place by construction: the one bright cell of an image."""

from __future__ import annotations

import numpy as np

from passl.modeling import Model

PATCH = 8


def planted_model(name: str, sharpness: float = 100.0) -> Model:
    """A classifier of one block with two heads, in evaluation mode. Head 0 attends to the brightest
    key, head 1 to all keys alike. The attention writes what it reads to the class token.

    Args:
        sharpness: of head 0's softmax.
    """
    head = {"name": "ClsHead", "num_classes": 2}
    if name == "ConViT":
        options = {"img_size": 32, "patch_size": PATCH, "depth": 1, "num_heads": 2}
        options |= {"local_up_to_layer": 0, "embed_dim": 8, "use_pos_embed": False}
        options["qkv_bias"] = True
    else:
        options = {"embed_dim": [8], "depth": [1], "num_heads": [2], "with_cls_token": True}
        options |= {"patch_size": PATCH, "patch_stride": PATCH, "patch_padding": 0}
        options["drop_path_rate"] = 0.0
    model = Model({"model": {"architecture": {"name": name, **options}, "head": head}})
    for parameter_name, parameter in model.named_parameters():
        is_scale = parameter_name.endswith(("norm.weight", "norm1.weight", "norm2.weight"))
        is_scale |= parameter_name.endswith(("bn.weight", "bn._variance"))
        parameter.set_value(np.full(parameter.shape, is_scale, np.float32))
    backbone = model.backbone
    embed = (backbone if name == "ConViT" else backbone.stage0).patch_embed.proj
    # A token is (s, -s, 1, -1, 0, ...) for the mean s of its cell: norms keep the sign of s, and
    # let gradients through.
    weight = np.zeros(embed.weight.shape, np.float32)
    weight[0], weight[1] = 1 / (3 * PATCH**2), -1 / (3 * PATCH**2)
    embed.weight.set_value(weight)
    embed.bias.set_value(np.array([0, 0, 1, -1, 0, 0, 0, 0], np.float32))
    # So has the class token, which is neither bright nor dark.
    token = (backbone if name == "ConViT" else backbone.stage0).cls_token
    token.set_value(np.array([[[0, 0, 1, -1, 0, 0, 0, 0]]], np.float32))
    attn = (backbone if name == "ConViT" else backbone.stage0).blocks[0].attn
    q_bias = np.zeros(8, np.float32)
    q_bias[0] = sharpness  # of head 0's channels 0 to 3
    k_weight, v_weight = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    k_weight[0, 0] = v_weight[0, 0] = 1.0
    if name == "ConViT":
        zeros = np.zeros(8, np.float32)
        attn.qkv.weight.set_value(
            np.concatenate([np.zeros((8, 8)), k_weight, v_weight], 1).astype("float32")
        )
        attn.qkv.bias.set_value(np.concatenate([q_bias, zeros, zeros]))
    else:
        attn.proj_q.bias.set_value(q_bias)
        attn.proj_k.weight.set_value(k_weight)
        attn.proj_v.weight.set_value(v_weight)
        for projection in (attn.conv_proj_k, attn.conv_proj_v):
            kernel = np.zeros(projection.conv.weight.shape, np.float32)
            kernel[:, :, 1, 1] = 1.0  # only its centre
            projection.conv.weight.set_value(kernel)
    attn.proj.weight.set_value(np.eye(8, dtype=np.float32))
    model.head.fc_cls.weight.set_value(np.eye(8, 2, dtype=np.float32))
    model.eval()
    return model


def image_with(row: int, column: int, height: int, width: int) -> np.ndarray:
    """A dark image [3, height, width] with one bright cell of `PATCH` pixels."""
    image = np.full((3, height, width), -1.0, np.float32)
    image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 1.0
    return image
