"""ConViT and CvT as backbones of PaddleSeg and PaddleDetection: importing `passl.integrations.
paddleseg` or `passl.integrations.paddledet` registers them (docs/integrations.md).
"""
