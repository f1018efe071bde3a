"""Options that several commands have."""

from __future__ import annotations

from passl.cli.options import FIGURES, out_problems
from passl.cli.train import _unused
from passl.utils.config import Config


def test_what_is_wrong_with_a_file_to_write(tmp_path):
    (tmp_path / "a.PNG").touch()
    for name, force, words in (
        ("b.PNG", None, ()),
        ("b.svg", False, ()),
        ("b", None, (".png or .svg",)),
        ("b.jpg", True, (".png or .svg",)),
        ("a.PNG", None, ("already",)),
        ("a.PNG", False, ("already", "--force replaces")),
        ("a.PNG", True, ()),
        ("none/b.png", True, ("does not exist",)),
    ):
        found = out_problems("--out", tmp_path / name, FIGURES, force)
        assert len(found) == bool(words)
        assert all(word in found[0] and str(tmp_path / name) in found[0] for word in words)
    assert "--force" not in out_problems("--out", tmp_path / "a.PNG", FIGURES)[0]
    assert out_problems("--out", None, FIGURES) == out_problems("--csv", tmp_path / "b") == []


def test_file_of_a_dry_run_or_profile_is_new(tmp_path):
    """Also if an earlier one was deleted."""
    cfg = Config({"output_dir": str(tmp_path / "run")})
    for name in ("profile.json", "profile_2.json", "profile_3.json"):
        assert _unused(cfg, "profile", ".json").name == name
        (tmp_path / "run" / name).touch()
    (tmp_path / "run" / "profile.json").unlink()
    assert _unused(cfg, "profile", ".json").name == "profile.json"
