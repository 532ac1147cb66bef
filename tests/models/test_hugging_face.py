"""Hugging Face models: bytes of tokens, rows and trees against plain passes, exact masses."""

from __future__ import annotations

import json
import math
import os
import sys
from functools import cache

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GPT2Config, LlamaConfig, MptConfig, PreTrainedTokenizerFast, Qwen3Config

from maskdiff.decoding.completion import Decoding
from maskdiff.decoding.condition import condition
from maskdiff.drawing.random import new_keys
from maskdiff.errors import CheckpointError, ConfigError
from maskdiff.models.continuation import ROOT, Canonical
from maskdiff.models.hugging_face import GrowingRows, HuggingFaceModel
from tests.helpers import hugging_face
from tests.helpers.hugging_face import END, PAD, TINY, TINY_GPT2, untrained

WORDS = [
    "the café",
    "thé",
    "日本語",
    "日曜日",
    " the end",
    "then",
    "x = (1 + 2)",
    "naïve",
    "line\n",
]
WORDS += ["🙂 ok", "  two spaces", "<|end"]
SIZE = 304  # of the models' output: more than the tokenizer has
SIZES = {**TINY, "vocab_size": SIZE, "max_position_embeddings": 64, "initializer_range": 0.3}


def byte_level(normalizer: object = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE with two special tokens and an ordinary added one."""
    return hugging_face.byte_level(None, WORDS, (END, PAD), ("<think>",), normalizer)


def network(
    config: object = None, attention: str = "sdpa", dtype: torch.dtype = torch.float64
) -> torch.nn.Module:
    """A small untrained model."""
    config = config or Qwen3Config(**SIZES, bos_token_id=None, eos_token_id=0)
    return untrained(config, dtype, attention)


def plain(model: HuggingFaceModel, path: list[int]) -> torch.Tensor:
    """log p(next token) after the context and a path, evaluated alone."""
    with torch.no_grad():
        logits = model.model.module(torch.tensor([[*model.context, *path]])).logits[0, -1].double()
    logits[model.model.barred] = -math.inf
    return logits.log_softmax(-1)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference; infinities must be the same."""
    assert torch.equal(a.isinf(), b.isinf())
    return float((a - b).nan_to_num(0.0).abs().max())


def keys(count: int) -> torch.Tensor:
    return new_keys(count, torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("tiny")
    byte_level().save_pretrained(where)
    network(dtype=torch.float32).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def model(folder) -> HuggingFaceModel:
    return HuggingFaceModel.from_folder(folder, max_tokens=12, dtype=torch.float64)


def test_table_of_a_byte_level_tokenizer(model):
    table = model.table
    assert len(table) == SIZE
    assert {bytes([byte]) for byte in range(256)} <= set(table.texts)
    assert table.texts[0] is None
    assert table.texts[1] is None
    assert table.ends == (0,)
    assert table.texts[300] == b"<think>"
    assert table.texts[301:] == (None,) * 3
    assert any(
        text and len(text) > 1 and text[0] >= 0xE0 for text in table.texts
    )  # merges of bytes of one character
    assert isinstance(model, Canonical)
    assert model.context == (0,)
    assert model.latent_states.limits == (12,)
    assert not model.latent_states.closed


@cache
def cached_model() -> HuggingFaceModel:
    """One model for all examples of hypothesis."""
    return HuggingFaceModel(network(), byte_level(), max_tokens=12)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=12),
        st.lists(st.sampled_from([*WORDS, END, PAD, "<think>"]), max_size=4).map("".join),
    )
)
def test_cuts_stand_for_their_text(text):
    model = cached_model()
    [cut] = model.encode([text.encode()])
    assert cut is not None
    assert model.table.text(cut) == text.encode()
    assert all(model.table.texts[token] is not None for token in cut)


def test_no_cut_for_half_characters_and_for_normalised_texts(model):
    assert model.encode([]) == []
    assert model.encode(["é".encode()[:1], b"then", b""])[::2] == [None, []]
    normalised = HuggingFaceModel(network(), byte_level(normalizers.NFC()), max_tokens=12)
    composed, decomposed = normalised.encode(["é".encode(), "e\u0301".encode()])
    assert composed is not None
    assert decomposed is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probabilities_and_norms_are_the_logits(dtype):
    """Penalties act on the logits of the head: see `HistoryTree`."""
    model = HuggingFaceModel(network(dtype=dtype), byte_level(), 30)
    tree, drawn = model.tree(), ~model.model.barred
    rows = [tree.extend(torch.tensor([ROOT, 0, 1]), torch.tensor([0, 65, 66]))]
    norms = [tree.norm]
    rows += [tree.extend(torch.tensor([2, ROOT]), torch.tensor([67, 0]))]
    norms += [tree.norm]
    logits = torch.cat(rows) + torch.cat(norms)[:, None]
    ids = torch.tensor([[*model.context, 65, 66, 67]])
    raw = model.model.forward(ids, 4).logits[0].double()[[0, 1, 2, 3, 0]]
    torch.testing.assert_close(logits[:, drawn], raw[:, drawn], rtol=0, atol=1e-4)
    assert float(torch.cat(norms).abs().min()) > 0.1


@pytest.mark.parametrize(
    ("attention", "dtype", "tolerance"),
    [("sdpa", torch.float64, 1e-10), ("sdpa", torch.float32, 1e-5), ("eager", torch.float32, 1e-5)],
)
@pytest.mark.parametrize("context", [None, [5, 0, 7]])
def test_tree_equals_histories_alone(attention, dtype, tolerance, context):
    """Branches of several calls, parents of any earlier call, and repeated roots."""
    model = HuggingFaceModel(network(attention=attention, dtype=dtype), byte_level(), 30, context)
    tree, random = model.tree(), torch.Generator().manual_seed(1)
    paths: list[list[int]] = []
    rows = []
    for _ in range(4):
        parents, tokens = [], []
        for _ in range(12):
            parent = (
                ROOT
                if len(paths) % 15 == 0
                else int(torch.randint(len(paths), (1,), generator=random))
            )
            token = 0 if parent == ROOT else int(torch.randint(2, 300, (1,), generator=random))
            paths.append([] if parent == ROOT else [*paths[parent], token])
            parents.append(parent)
            tokens.append(token)
        rows.append(tree.extend(torch.tensor(parents), torch.tensor(tokens)))
        assert rows[-1].dtype == torch.float64
        assert rows[-1].shape == (12, SIZE)
    assert (
        max(gap(row, plain(model, path)) for row, path in zip(torch.cat(rows), paths, strict=True))
        < tolerance
    )
    assert tree.calls == 4
    assert tree.positions == len(model.context) - 1 + len(paths)
    again = tree.extend(torch.tensor([ROOT, ROOT]), torch.tensor([0, 0]))
    assert gap(again, rows[0][[0, 0]]) < tolerance
    assert tree.positions == len(model.context) - 1 + len(paths) + 2  # the context is read once
    tree.forget(2)
    token = paths[3][-1]
    again = tree.extend(torch.tensor([0, 1]), torch.tensor([token, token]))
    for row, path in zip(again, ([token], [*paths[1], token]), strict=True):
        assert gap(row, plain(model, path)) < tolerance


@torch.no_grad()
def test_padded_rows_and_their_copies_equal_rows_alone():
    """Rows that grow, their copies and selections of them do not change each other."""
    model = HuggingFaceModel(network(), byte_level(), 30).model
    rows = GrowingRows(model, [(40, 41, 42), (43,), (44, 45)])
    rows.log_p()
    copied = rows.copy([2, 0, 2])
    steps = [
        (rows.step(torch.tensor([50, 51, 52])), [[40, 41, 42, 50], [43, 51], [44, 45, 52]]),
        (copied.step(torch.tensor([53, 54, 55])), [[44, 45, 53], [40, 41, 42, 54], [44, 45, 55]]),
    ]
    rows.select(torch.tensor([1, 1]))
    steps += [(rows.step(torch.tensor([56, 57])), [[43, 51, 56], [43, 51, 57]])]
    steps += [(copied.select(torch.tensor([2])).step(torch.tensor([58])), [[44, 45, 55, 58]])]
    for log_p, paths in steps:
        assert log_p.dtype == torch.float64
        for row, path in zip(log_p, paths, strict=True):
            alone = model.module(torch.tensor([path])).logits[0, -1].log_softmax(-1)
            assert gap(row, alone) < 1e-10


def test_eager_attention_in_double():
    """It computes its softmax in single precision."""
    eager = HuggingFaceModel(network(attention="eager"), byte_level(), 12)
    tree = (torch.tensor([ROOT, 0, 0, 1]), torch.tensor([0, 40, 50, 60]))
    assert (
        gap(
            eager.tree().extend(*tree),
            HuggingFaceModel(network(), byte_level(), 12).tree().extend(*tree),
        )
        < 1e-5
    )


def test_positions_that_are_learnt():
    config = GPT2Config(
        vocab_size=SIZE, **TINY_GPT2, n_positions=16, initializer_range=0.3, bos_token_id=0
    )
    model = HuggingFaceModel(network(config), byte_level(), 100)
    assert model.latent_states.limits == (15,)
    tree = model.tree()
    tree.extend(torch.tensor([ROOT, 0, 0]), torch.tensor([0, 40, 50]))
    row = tree.extend(torch.tensor([1]), torch.tensor([60]))[0]
    assert gap(row, plain(model, [40, 60])) < 1e-10 < gap(row, plain(model, [50, 60]))


def test_special_tokens_are_never_drawn(model):
    row = model.tree().extend(torch.tensor([ROOT]), torch.tensor([0]))[0]
    assert row[[1, 301, 302, 303]].tolist() == [-math.inf] * 4
    assert row[0] > -math.inf
    assert float(row.exp().sum()) == pytest.approx(1, abs=1e-12)


def brute_force(model: HuggingFaceModel, rest: bytes, path: list[int]) -> float:
    """p(a string goes on with `rest`), by a forward pass of its own for every history."""
    row, total = plain(model, path).exp().tolist(), 0.0
    for token, text in enumerate(model.table.texts):
        if text is not None and text.startswith(rest):
            total += row[token]
        elif text is not None and rest.startswith(text):
            total += row[token] * brute_force(model, rest[len(text) :], [*path, token])
    return total


@pytest.mark.parametrize(
    "prefix", [b"then", "thé".encode(), "日".encode()[:2], "a 日".encode()[:-1], b"<think>"]
)
def test_mass_of_a_prefix(model, prefix):
    conditioned = condition(model, prefix, "exact")
    assert conditioned.summary.calls == 1
    assert conditioned.summary.log_z == pytest.approx(
        math.log(brute_force(model, prefix, [])), abs=1e-9
    )
    beam = condition(model, prefix, "beam", beam=2)
    assert beam.summary.log_z <= conditioned.summary.log_z + 1e-9
    assert (
        math.exp(beam.summary.log_z - conditioned.summary.log_z) >= 1 - beam.summary.dropped - 1e-9
    )
    canonical = condition(model, prefix, "canonical")
    assert canonical.summary.log_z <= conditioned.summary.log_z + 1e-9


@pytest.mark.slow
def test_masses_of_all_continuations(model):
    prefix = "é".encode()[:1]
    longer = [condition(model, prefix + bytes([byte])).summary.log_z for byte in range(256)]
    ending = condition(model, prefix, whole=True).summary.log_z
    total = sum(math.exp(log_z) for log_z in [*longer, ending])
    assert total == pytest.approx(math.exp(condition(model, prefix).summary.log_z), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [b"", "caf\u00e9".encode()[:-1], END.encode()[:5]])
def test_completions_begin_with_the_prefix(model, prefix):
    """In the middle of a character too; the log-probabilities are those of the model."""
    for done in Decoding(condition(model, prefix), keys(8)).run():
        assert done.data.startswith(prefix)
        assert done.ended == (done.tokens[-1] == 0)
        assert done.ended or len(done.tokens) == 12
        steps = [
            float(plain(model, list(done.tokens[:i]))[token]) for i, token in enumerate(done.tokens)
        ]
        assert done.log_p == pytest.approx(sum(steps), abs=1e-8)


def test_the_name_of_a_special_token_is_text(model):
    conditioned = condition(model, END.encode(), "beam", beam=4)
    assert 0 not in conditioned.histories.token[1:]
    assert 0 not in conditioned.covers(0).tolist()
    for done in Decoding(conditioned, keys(4)).run():
        assert done.data.startswith(END.encode())
        assert model.table.text([t for t in done.tokens if t > 1]) == done.data


def test_a_string_is_cut_at_the_limit(folder):
    short = HuggingFaceModel.from_folder(folder, max_tokens=2)
    cut = [done for done in Decoding(condition(short, b"t"), keys(8)).run() if done.tokens[-1] != 0]
    assert cut
    assert all(len(done.tokens) == 2 and not done.ended for done in cut)


def sentence_pieces(kind: str) -> Tokenizer:
    """As Llama 2 (BPE, a space by a normalizer), newer ones (Metaspace) or T5 (Unigram)."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "t",
        "h",
        "e",
        "th",
        "the",
        "▁the",
        "▁▁",
        "é",
    ]
    if kind == "unigram":
        raw = Tokenizer(
            models.Unigram(
                [(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0, byte_fallback=True
            )
        )
    else:
        merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "▁")]
        ids = {piece: i for i, piece in enumerate(pieces)}
        raw = Tokenizer(
            models.BPE(
                vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
            )
        )
    if kind == "llama":
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        steps = [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    else:
        raw.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first" if kind == "bpe" else "always", split=False
        )
        steps = [decoders.ByteFallback(), decoders.Metaspace()]
    raw.decoder = decoders.Sequence(steps)
    raw.add_special_tokens(["<s>", "</s>"])
    return raw


@pytest.mark.parametrize("kind", ["llama", "bpe", "unigram"])
def test_sentence_pieces_with_byte_fallback(kind):
    """The space that the tokenizer writes in front is part of the text."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=sentence_pieces(kind), bos_token="<s>", eos_token="</s>"
    )
    config = LlamaConfig(**SIZES, bos_token_id=1, eos_token_id=[2, 2])
    model = HuggingFaceModel(network(config), tokenizer, 12)
    texts = model.table.texts
    assert texts[:3] == (None,) * 3
    assert model.table.ends == (2,)
    assert model.context == (1,)
    assert texts[3:259] == tuple(bytes([byte]) for byte in range(256))
    assert texts[259:268] == (b" ", b"t", b"h", b"e", b"th", b"the", b" the", b"  ", "é".encode())
    assert texts[268:] == (None,) * (SIZE - 268)
    cuts = model.encode([b" the", b"the", " thé\n日".encode(), b"<s>", b" <s>"])
    assert cuts[0] == [265]
    assert cuts[1] is None
    assert cuts[3] is None
    assert cuts[2] is not None
    assert model.table.text(cuts[2]) == " thé\n日".encode()
    assert (cuts[4] is None) == (kind == "unigram")  # which finds the piece <s> itself
    assert cuts[4] is None or model.table.text(cuts[4]) == b" <s>"
    conditioned = condition(model, " t日".encode()[:-1], "exact")
    assert all(
        done.data.startswith(" t日".encode()[:-1]) for done in Decoding(conditioned, keys(3)).run()
    )
    assert condition(model, b" t", "exact").summary.log_z == pytest.approx(
        math.log(brute_force(model, b" t", [])), abs=1e-9
    )


def sliding() -> Qwen3Config:
    """The second layer sees 8 tokens."""
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    return Qwen3Config(**SIZES, eos_token_id=0, **window)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= 400
    return text


def test_unsupported_tokenizers_and_models_are_refused():
    tokenizer = byte_level()

    def refused(model, tokenizer=tokenizer, *rest) -> str:
        with pytest.raises(ConfigError) as error:
            HuggingFaceModel(model, tokenizer, *rest)
        return one_line(error)

    word_pieces = Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}))
    assert "WordPiece" in refused(
        network(), PreTrainedTokenizerFast(tokenizer_object=word_pieces, eos_token="a")
    )
    strange = sentence_pieces("bpe")
    strange.decoder = decoders.Sequence([decoders.Metaspace(), decoders.CTC()])
    assert "CTC" in refused(
        network(), PreTrainedTokenizerFast(tokenizer_object=strange, eos_token="</s>")
    )
    assert "fast" in refused(network(), object())
    assert "belong together" in refused(
        network(Qwen3Config(**{**SIZES, "vocab_size": 290}, eos_token_id=0))
    )
    assert "context" in refused(network(), tokenizer, 12, [])
    assert "context" in refused(network(), tokenizer, 12, [SIZE])
    assert "max_tokens" in refused(network(), tokenizer, 0)
    assert "window" in refused(network(sliding()), tokenizer, 12)
    chunked = network()
    chunked.config.layer_types = ["full_attention", "chunked_attention"]
    assert "chunked_attention" in refused(chunked)
    flash = network()
    flash.config._attn_implementation = "flash_attention_2"
    assert "eager" in refused(flash)
    alibi = MptConfig(
        vocab_size=SIZE, d_model=32, n_layers=2, n_heads=4, initializer_range=0.5, eos_token_id=0
    )
    assert "off by" in refused(network(alibi, "eager"))  # overlooks position_ids, silently


def test_a_window_as_long_as_the_string():
    model = HuggingFaceModel(network(sliding()), byte_level(), 7)
    assert model.model.module.config.layer_types == ["full_attention", "sliding_attention"]
    path, crowd = [40, 41, 42, 43, 44, 45], [0] * 12  # the row is longer than the window
    parents, tokens = [ROOT, 0, *crowd, 1, 14, 15, 16, 17], [0, 40, *[50] * 12, *path[1:]]
    rows = model.tree().extend(torch.tensor(parents), torch.tensor(tokens))
    assert gap(rows[-1], plain(model, path)) < 1e-10


def test_folders_that_cannot_be_read(folder, tmp_path, monkeypatch):
    def refused(where) -> str:
        with pytest.raises(CheckpointError) as error:
            HuggingFaceModel.from_folder(where)
        return one_line(error)

    assert "no folder" in refused(tmp_path / "missing")
    assert "cannot read" in refused(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert "cannot read" in refused(tmp_path)  # no weights
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:5000])
    assert "cannot read" in refused(tmp_path)
    from safetensors.torch import load, save

    tensors = load(whole)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    (tmp_path / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    assert "up_proj" in refused(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "model_type": "nonsense"}))
    assert "nonsense" in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="pip install"):
        HuggingFaceModel.from_folder(folder)
