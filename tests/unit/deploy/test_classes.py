from __future__ import annotations

import re

from passl.deploy.classes import imagenet_classes, readable


def test_the_thousand():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert all(re.fullmatch(r"n[0-9]{8}", synset) for synset in classes)
    assert list(classes) == sorted(classes)  # the order of ILSVRC 2012's labels
    words = list(classes.values())
    assert all(word == word.strip() and word for word in words)
    known = {
        0: "tench",
        207: "golden retriever",
        281: "tabby",
        388: "giant panda",
        805: "soccer ball",
    }
    for label, name in {**known, 805: "soccer ball", 999: "toilet tissue"}.items():
        assert words[label].split(",")[0] == name
    assert (words[134], words[517]) == ("crane", "crane")  # bird and machine


def test_readable():
    names = ["n02099601", "cat", "n00000000"]
    assert readable(names) == ["golden retriever", "cat", "n00000000"]
