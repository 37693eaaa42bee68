"""Texts as data modules read them: lines, JSON lines and conversations."""

import gzip
import json
import math
import shutil

import pytest

from litseq.bundle import open_bundle
from litseq.errors import DataError
from litseq.quantize import QuantizeOptions, quantize_bundle
from litseq.quantize.samples import Sampler, read_texts
from litseq.runtime import Generator
from runtime.test_chat import CHAT

TURNS = ["zwei mal drei", "macht vier", "und drei", "the lazy dog"]
MESSAGES = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(TURNS)]


def json_lines(path, *records):
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return path


@pytest.fixture(params=["exported-decoder-only", "exported-encoder-decoder"])
def chatbot(request, pytestconfig, tmp_path):
    shutil.copytree(pytestconfig.rootpath / "tests" / "fixtures" / request.param, tmp_path / "bot")
    manifest = json.loads((tmp_path / "bot" / "manifest.json").read_text())
    has_encoder = manifest["architecture"] == "encoder-decoder"
    manifest["chat"] = CHAT | ({"generation_prompt": False, "history": 0} if has_encoder else {})
    (tmp_path / "bot" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "bot"


def test_answers_stand_behind_what_the_chat_gives_the_model(chatbot, tmp_path):
    texts = read_texts(json_lines(tmp_path / "talks.jsonl", {"turns": TURNS}, {"messages": MESSAGES[:2]}), True, True)
    manifest, generator = open_bundle(chatbot).manifest, Generator.from_bundle(chatbot, threads=1)
    rows = Sampler(manifest, generator).rows(texts, 10**6)
    assert len(rows) == 3
    expected = set()
    for asked, answer in ((MESSAGES[:1], TURNS[1]), (MESSAGES[:3], TURNS[3])):
        prompt = tuple(generator.chat_prompt(asked).token_ids)
        target = (*generator.tokenizer.encode(answer), CHAT["stop_ids"][0])
        start = tuple(manifest.prompt_format.get("start_ids", ()))
        expected.add((prompt, (*start, *target)) if manifest.encoder else (None, (*prompt, *target)))
    assert {(row.source, row.tokens) for row in rows} == expected
    assert {len(row.tokens) - row.prompt for row in rows} == {
        len(generator.tokenizer.encode(answer)) + 1 for answer in (TURNS[1], TURNS[3])
    }


def test_a_chatbot_is_calibrated_and_measured_on_conversations(chatbot, tmp_path):
    talks = json_lines(tmp_path / "talks.jsonl", *[{"turns": TURNS}, {"messages": MESSAGES}] * 3)
    options = QuantizeOptions("int4", threads=1, calibration=talks, validation=talks, max_loss=math.inf)
    report = quantize_bundle(chatbot, tmp_path / "out", options)
    generator = Generator.from_bundle(chatbot, threads=1)
    found = []
    for asked, answer in ((MESSAGES[:1], TURNS[1]), (MESSAGES[:3], TURNS[3])):
        target = [*generator.tokenizer.encode(answer), CHAT["stop_ids"][0]]
        (score,) = generator.score([generator.chat_prompt(asked).token_ids], [target])
        found += score.logprobs[: len(target)]
    assert set(report.metrics) == {"perplexity"}
    assert report.metrics["perplexity"]["fp32"] == pytest.approx(math.exp(-sum(found) / len(found)), rel=1e-4)


def test_json_lines_hold_what_the_data_modules_read(tmp_path):
    texts = json_lines(tmp_path / "a.jsonl", {"text": "eins"}, {"source": "zwei", "target": "two"})
    assert [(t.source, t.target) for t in read_texts(texts, pairs=False)] == [(None, "eins"), ("zwei", "two")]
    packed = tmp_path / "B.JSONL.GZ"
    packed.write_bytes(gzip.compress(b'{"source": "drei", "target": "three", "id": 7}\n'))
    assert [(t.source, t.target) for t in read_texts(packed, pairs=True)] == [("drei", "three")]


@pytest.mark.parametrize(
    ("line", "pairs", "chat", "message"),
    [
        ('{"text": "eins"}', True, False, "line 1: 'text', expected texts as 'source' and 'target'$"),
        ('{"content": "eins"}', False, False, "'content', expected texts as 'text', or 'source' and 'target'$"),
        ('{"turns": ["a", "b"]}', False, False, "'turns'.*: the model was not trained on conversations"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', False, True, "line 1: message 1 is by the assistant"),
        ('{"turns": [["a"]]}', True, True, "line 1: message 1"),
        ("eins", False, False, "line 1: no JSON"),
        ("[1]", False, True, "no object with fields, expected texts as .* or 'messages' or 'turns'"),
    ],
)
def test_json_lines_that_are_no_texts(tmp_path, line, pairs, chat, message):
    (tmp_path / "a.ndjson").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_texts(tmp_path / "a.ndjson", pairs, chat)
