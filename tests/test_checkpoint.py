"""Checkpoints: loading restores the saved state without running code; failed saves are harmless."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from pathlib import Path

import pytest
import torch

from maskdiff import checkpoint
from maskdiff.cli.arguments import run_cli
from maskdiff.errors import CheckpointError, ConfigError
from tests.helpers.paths import CHECKPOINTS
from tests.helpers.tiny import tiny_checkpoint, tiny_loaded, tiny_payload


class MaliciousPickle:
    """An object whose pickle calls a function that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_saved_checkpoint_equals_the_loaded_one(tmp_path: Path) -> None:
    payload = tiny_payload()
    checkpoint.save(
        tmp_path / "deep" / "a.pt",
        {**payload, "step": 7, "optimizer": {"state": [torch.arange(3)]}},
    )
    read = checkpoint.load(tmp_path / "deep" / "a.pt")
    assert read["step"] == 7
    assert read["config"] == payload["config"]
    assert all(
        torch.equal(read["weights"][name], tensor) for name, tensor in payload["weights"].items()
    )
    assert torch.equal(read["optimizer"]["state"][0], torch.arange(3))
    about = checkpoint.payload_summary(read)
    assert about["parameters"] == sum(tensor.numel() for tensor in payload["weights"].values())
    assert "weights" not in about


def test_loaded_denoiser_scores_as_the_saved_one(tmp_path: Path) -> None:
    loaded = checkpoint.load_denoiser(tiny_checkpoint(tmp_path))
    tokens, length = torch.tensor([[2, 8, 1, 5, 3]]), torch.tensor([5])
    ours = loaded.denoiser(tokens, length, torch.zeros(1), False, None)
    assert torch.equal(ours, tiny_loaded().denoiser(tokens, length, torch.zeros(1), False, None))
    assert loaded.provenance["seed"] == 0
    assert loaded.metrics["elbo"] == 3.0
    assert not any(weight.requires_grad for weight in loaded.denoiser.model.parameters())


def test_compile_prefix_is_stripped_and_tensors_are_copied() -> None:
    loaded, weight = tiny_loaded(), torch.ones(2)
    payload = checkpoint.make_payload(
        loaded.config, loaded.language.vocabulary, {"_orig_mod.a": weight}
    )
    weight.zero_()
    assert payload["weights"]["a"].tolist() == [1, 1]


def test_malicious_pickle_is_not_run(tmp_path: Path) -> None:
    target, path = tmp_path / "owned", tmp_path / "bad.pt"
    torch.save(
        {**tiny_payload(), "format": "maskdiff", "version": 1, "extra": MaliciousPickle(target)},
        path,
    )
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        checkpoint.load(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # negative control: the file would have done it
    assert target.exists()
    target.unlink()
    path.write_bytes(pickle.dumps(MaliciousPickle(target)))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not target.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, share: float) -> None:
    path = tiny_checkpoint(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_flipped_bits_are_detected(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda item: item.file_size)
    data[largest.header_offset + 200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    cases = {"text": b"hello\n", "empty": b"", "nul": bytes(1000)}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / name)
    torch.save({"model": torch.ones(2)}, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"format": "maskdiff", "version": 1}, tmp_path / "bare.pt")
    torch.save({**tiny_payload(), "format": "maskdiff", "version": 99}, tmp_path / "new.pt")
    torch.save({**tiny_payload(), "format": "maskdiff", "version": "x"}, tmp_path / "odd.pt")
    with zipfile.ZipFile(tmp_path / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 10**6)
    expected = {
        "other.pt": "format is not", "list.pt": "format is not", "bare.pt": "incomplete",
        "new.pt": "update maskdiff",
        "odd.pt": "version", "deflated.pt": "compressed", "missing.pt": "does not exist",
    }  # fmt: skip
    for name, message in expected.items():
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="folder"):
        checkpoint.load(tmp_path)


def test_inconsistent_parts_are_refused(tmp_path: Path) -> None:
    payload = tiny_payload()
    vocabulary = {**payload["vocabulary"], "fingerprint": "0" * 16}
    with pytest.raises(CheckpointError, match="another vocabulary"):
        checkpoint.denoiser_from({**payload, "vocabulary": vocabulary})
    with pytest.raises(CheckpointError, match="do not fit its configuration"):
        checkpoint.denoiser_from({**payload, "weights": dict(list(payload["weights"].items())[1:])})
    config = {**payload["config"], "model": {**payload["config"]["model"], "n_heads": 3}}
    with pytest.raises(CheckpointError, match="n_head"):
        checkpoint.denoiser_from({**payload, "config": config})


def changed(payload: checkpoint.Payload, path: str, value: object) -> checkpoint.Payload:
    """Return `payload` with a value at `path` (keys joined by slashes), or a changed weight."""
    first, _, rest = path.partition("/")
    if not rest:
        return {**payload, first: value(payload[first]) if callable(value) else value}
    return {**payload, first: changed(payload[first], rest, value)}


INCONSISTENT: list[tuple[str, object, str]] = [
    ("config/model/n_head", 3, "with 3 heads it must be a multiple of 6"),
    ("config/model/n_embd", 18, "must be a multiple of 4"),
    (
        "config/model",
        {"n_embd": 18, "n_head": 2, "positions": "learned", "vocab_size": 20},
        "must be an even multiple of n_head",
    ),
    ("config/model/n_layer", 2, "weights that do not fit its configuration"),
    ("config/model/vocab_size", 8, "vocab_size 8 for 20 symbols"),
    ("config/model/block_size", 8, "block_size 8 for strings of max_len 64"),
    ("config/model/k_iter", torch.ones(2), "configuration that this program cannot use"),
    ("config/model", 5, "section 'model' is '5'"),
    ("config/noise/sigma_min", 1.0, "lower sigma_min"),
    ("config/language/operators", "x", "language that this program cannot make"),
    (
        "config/model",
        {"n_layer": 64, "n_embd": 4096, "vocab_size": 20},
        "allowed are 1,000,000,000",
    ),
    ("vocabulary/symbols", 5, "its symbols are '5'"),
    ("vocabulary/symbols", None, "its symbols are 'None'"),
    ("vocabulary/symbols", [1, 2], "not a list of texts"),
    ("vocabulary/symbols", list("+*0123456789"), "another vocabulary"),
    ("metrics", [1.0], "metrics is"),
    ("metrics", {"elbo": "good"}, "metrics is"),
    ("provenance", "me", "provenance is 'me'"),
    ("provenance", {"tokens": "many"}, "provenance is"),
    ("provenance", {"parent_seconds": "long"}, "provenance is"),
    ("provenance", {"seed": torch.ones(2)}, "provenance is"),
    ("weights/head.weight", lambda w: w.fill_(torch.nan), "infinite or none"),
    (
        "weights/head.weight",
        lambda w: w.double() * 1e300,
        "infinite or none",
    ),  # finite only as it is stored
    ("weights/head.weight", lambda w: w.cfloat(), "holds torch.complex64"),
    ("weights/head.weight", lambda w: w.long(), "holds torch.int64"),
    ("weights/head.weight", lambda w: w.to_sparse(), "not stored in full"),
    (
        "weights/head.weight",
        lambda w: torch.zeros(1).expand(10**7, 10**7),
        "not stored in full",
    ),  # 400 TB in a few bytes
    ("weights/head.weight", lambda w: w[:1], "do not fit its configuration: 'head.weight'"),
    ("weights/head.weight", lambda w: w.tolist(), "is not a tensor"),
]


@pytest.mark.parametrize("path, value, message", INCONSISTENT)
def test_well_formed_files_with_bad_values_are_refused(
    tmp_path: Path, path: str, value: object, message: str
) -> None:
    checkpoint.save(tmp_path / "a.pt", changed(tiny_payload(), path, value))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_denoiser(tmp_path / "a.pt")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_precisions_are_read(tmp_path: Path) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        payload = tiny_payload()
        weights = {name: weight.to(kind) for name, weight in payload["weights"].items()}
        checkpoint.save(tmp_path / "a.pt", {**payload, "weights": weights})
        model = checkpoint.load_denoiser(tmp_path / "a.pt").denoiser.model
        assert all(torch.equal(w, weights[name].float()) for name, w in model.state_dict().items())


def test_unknown_device_is_refused() -> None:
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ConfigError, match="this machine has auto, cpu"):
            checkpoint.resolve_device(name)
    assert checkpoint.resolve_device("cpu").type == "cpu"


def test_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_checkpoint(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(
        os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(CheckpointError, match="No space left on device; the previous file is kept"):
        checkpoint.save(path, tiny_payload(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_size_limit_is_reported_and_keeps_the_previous_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python ignores SIGXFSZ; the limit holds during the write alone."""
    path = tiny_checkpoint(tmp_path)
    before, payload = path.read_bytes(), tiny_payload(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code = run_cli(lambda argv: checkpoint.save(path, payload))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert "the previous file is kept" in error
    assert path.read_bytes() == before


def test_kill_during_the_write_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_checkpoint(tmp_path)
    before = path.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, tiny_payload(seed=1))
    assert path.read_bytes() == before


def test_unwritable_paths_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.save(tmp_path / "file" / "a.pt", tiny_payload())
    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.save(tmp_path / ("x" * 300), tiny_payload())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tiny_checkpoint(tmp_path)
    (tmp_path / "link.pt").symlink_to(real)
    checkpoint.save(tmp_path / "link.pt", tiny_payload(seed=1))
    assert (tmp_path / "link.pt").is_symlink()
    assert checkpoint.load(real)["provenance"]["seed"] == 1


def test_pretrained_folder_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    payload = tiny_payload()
    checkpoint.save_pretrained(tmp_path / "hub", payload)
    loaded = checkpoint.from_pretrained(tmp_path / "hub")
    for name, tensor in loaded.denoiser.model.state_dict().items():
        assert torch.equal(tensor, payload["weights"][name])
    assert loaded.config == tiny_loaded().config
    (tmp_path / "hub" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError):
        checkpoint.from_pretrained(tmp_path / "hub")
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.from_pretrained(tmp_path / "nowhere")


def test_saved_file_loads_with_weights_only(tmp_path: Path) -> None:
    """The archive holds no code objects: a weights-only load of the raw bytes succeeds."""
    data = tiny_checkpoint(tmp_path).read_bytes()
    assert torch.load(io.BytesIO(data), weights_only=True)["format"] == "maskdiff"


@pytest.mark.slow
def test_shipped_checkpoints_load_and_contain_no_absolute_paths() -> None:
    shipped = sorted(CHECKPOINTS.glob("*.pt"))
    assert {"best", "v1", "v2", "v3", "v4", "hybrid_aware", "skeleton"} <= {
        path.stem for path in shipped
    }
    for path in shipped:
        loaded = checkpoint.load_denoiser(path)
        assert loaded.provenance["step"] > 0
        payload = checkpoint.load(path)
        parts = [
            payload["config"],
            payload["provenance"],
            payload["metrics"],
            payload.get("language", {}).get("name", ""),
        ]
        assert not [text for text in strings_in(parts) if text.startswith(("/", "~"))]


def strings_in(item: object) -> list[str]:
    """Yield every string of nested dictionaries and sequences, keys included."""
    if isinstance(item, dict):
        return [text for pair in item.items() for part in pair for text in strings_in(part)]
    if isinstance(item, (list, tuple)):
        return [text for part in item for text in strings_in(part)]
    return [item] if isinstance(item, str) else []
