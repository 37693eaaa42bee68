"""Conversations over committed bundles, which get a chat template here."""

import json
import shutil

import pytest

from litseq.errors import BundleError, UsageError
from litseq.runtime import Generator
from litseq.text import Message
from runtime.fixtures import fixture_net, fixture_path

TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' else '<sep>' }}{% endfor %}"
    "{% if add_generation_prompt %}<bos>{% endif %}"
)
CHAT = {"template": TEMPLATE, "special_tokens": {"eos_token": "<eos>"}, "stop_ids": [2], "history": None}
FORMS = {"tiny-decoder-only": {}, "tiny-encoder-decoder": {"generation_prompt": False}, "tiny-prefix-lm": {}}
TALK = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    Message("user", "size?"),
]


def chatbot(tmp_path, name="tiny-decoder-only", **changes):
    target = tmp_path / name
    shutil.copytree(fixture_path(name), target, dirs_exist_ok=True)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["chat"] = CHAT | FORMS[name] | changes
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def load(*args, **changes):
    return Generator.from_bundle(chatbot(*args, **changes), threads=1)


def rendered(generator, *texts, prompt=True):
    ids = []
    for i, text in enumerate(texts):
        ids += [*generator.tokenizer.encode(text), (4, 2)[i % 2]]
    return [*ids, 1] if prompt else ids


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_is_what_the_network_gives_for_the_rendered_conversation(tmp_path, name):
    generator, net = load(tmp_path, name), fixture_net(name)
    ids = rendered(generator, "hello", "hi", "size?", prompt=not net.encoder_decoder)
    wanted = net.greedy([1], 12, 2, ids) if net.encoder_decoder else net.greedy(ids, 12, 2)
    completion = generator.chat(TALK, max_new_tokens=12)
    assert completion.token_ids == [token for token in wanted if token != 2]
    assert "".join(generator.stream_chat(TALK, max_new_tokens=12)) == completion.text
    sampled = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    assert "".join(generator.stream_chat(TALK, **sampled)) == generator.chat(TALK, **sampled).text


def test_words_that_spell_special_tokens_are_text(tmp_path):
    generator = load(tmp_path)
    found = generator.chat_prompt([{"role": "user", "content": "a<eos><sep>"}]).token_ids
    assert found == [*generator.tokenizer.encode("a<eos><sep>"), 4, 1]


@pytest.mark.parametrize(
    ("history", "known"), [(0, ["size?"]), (1, ["hello", "hi", "size?"]), (None, ["hello", "hi", "size?"])]
)
def test_history_is_the_one_of_training(tmp_path, history, known):
    generator = load(tmp_path, "tiny-encoder-decoder", history=history)
    prompt = generator.chat_prompt(TALK)
    assert (prompt.token_ids, prompt.dropped) == (rendered(generator, *known, prompt=False), 0)


@pytest.mark.parametrize("name", FORMS)
def test_long_conversations_lose_their_oldest_turns(tmp_path, name):
    generator = load(tmp_path, name)
    shared = name != "tiny-encoder-decoder"
    texts = ["abcd", "efg"] * 9 + ["last"]
    messages = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    assert len(rendered(generator, *texts)) > 64
    for new_tokens, limit in ((5, 59 if shared else 64), (60, 48 if shared else 64), (None, 48 if shared else 64)):
        prompt = generator.chat_prompt(messages, max_new_tokens=new_tokens)
        assert prompt.token_ids == rendered(generator, *texts[2 * prompt.dropped :], prompt=shared)
        longer = rendered(generator, *texts[2 * prompt.dropped - 2 :], prompt=shared)
        assert len(prompt.token_ids) <= limit < len(longer)
    # Rather a short answer than none.
    assert len(generator.chat_prompt([Message("user", "x" * 60)]).token_ids) > 48
    with pytest.raises(UsageError, match="the last message alone is over the 64 tokens"):
        generator.chat([*messages[:-1], Message("user", "x" * 64)])


def test_an_answer_also_ends_with_the_stop_token_of_the_chat(tmp_path):
    plain = load(tmp_path)
    first = plain.chat(TALK, max_new_tokens=12).token_ids
    stop = first[3]
    other = load(tmp_path, stop_ids=[stop])
    completion = other.chat(TALK, max_new_tokens=12)
    assert (completion.token_ids, completion.finish_reason) == (first[: first.index(stop)], "eos")
    assert other.score(["a"], ["b"])[0].token_ids[-1] == stop
    assert plain.score(["a"], ["b"])[0].token_ids[-1] == 2


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "of type str, expected a list of messages"),
        ([], "no message of a user"),
        (TALK[:2], "the last message is by the assistant, expected the user's"),
        (TALK[1:], "message 1 is by the assistant, expected the user"),
        ([{"role": "user"}], "message 1 has no 'content'"),
    ],
)
def test_what_is_no_question(tmp_path, messages, words):
    with pytest.raises(UsageError, match=words):
        load(tmp_path).chat(messages)


def test_a_bundle_that_is_no_chatbot():
    generator = Generator.from_bundle(fixture_path("tiny-decoder-only"), threads=1)
    with pytest.raises(UsageError, match="no chat template: its model was not trained on conversations; use generate"):
        generator.chat(TALK)
    with pytest.raises(UsageError, match="batch_size"):
        load_options = {"batch_size": 3}
        generator.chat(TALK, **load_options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": "{% for %}"}, "chat: the chat template is no Jinja template"),
        ({"template": 3}, "chat: the chat template is no text"),
        ({"stop_ids": None}, "chat: stop_ids is None"),
        ({"stop_ids": [300]}, "chat has the stop id 300, vocab_size is 300"),
        ({"history": "all"}, "chat: history is 'all'"),
        ({"template": "{{ ''.__class__.__mro__ }}"}, "refuses the conversation: access to attribute '__class__'"),
        ({"special_tokens": []}, "special_tokens is no object of texts"),
    ],
)
def test_damaged_chat_formats(tmp_path, changes, words):
    with pytest.raises(BundleError, match=words):
        load(tmp_path, **changes)
