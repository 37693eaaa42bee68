"""Conversations to a bundle: what is trained, what torch answers and what onnxruntime answers."""

import json
import random
from itertools import pairwise

import pytest
import torch

from integration.toy_trainer import trainer
from litseq.data import ConversationDataModule
from litseq.export import export_bundle
from litseq.models import DecoderOnly, EncoderDecoder, load_module
from litseq.models.predict import generate_ids
from litseq.runtime import Generator
from litseq.text import ChatFormat
from litseq.text.messages import read_turns

NAMES = ["ada", "bob", "cleo", "dan", "eve", "finn"]
SIZES = {"embed_dim": 32, "num_layers": 1, "num_heads": 2, "max_seq_len": 80, "dropout": 0.0}
ARMS = {
    "decoder-only": (DecoderOnly, {}, {"packing": True}),
    "prefix-lm": (DecoderOnly, {"prefix_lm": True}, {"history": 1}),
    "encoder-decoder": (EncoderDecoder, {}, {"history": "all"}),
    "question alone": (EncoderDecoder, {}, {"history": 0}),
}


def talk(seed):
    """A name that is asked for later, with small talk between."""
    generator = random.Random(seed)
    name = generator.choice(NAMES)
    turns = [f"my name is {name}", "hello"]
    for _ in range(generator.randint(0, 3)):
        turns += [generator.choice(["nice day", "it rains"]), "yes"]
    return [*turns, "who am i", name]


@pytest.mark.parametrize(
    "arm", [pytest.param(arm, marks=pytest.mark.slow if arm in ("prefix-lm", "question alone") else ()) for arm in ARMS]
)
def test_a_chatbot_lives_through_everything(arm, tmp_path):
    kind, model_options, data_options = ARMS[arm]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"turns": talk(i)}) + "\n" for i in range(80)))
    data = ConversationDataModule(train=str(path), vocab_size=80, max_tokens=600, **data_options)
    torch.manual_seed(0)
    model = kind(vocab_size=data.vocab_size, warmup_steps=5, learning_rate=1e-2, **SIZES, **model_options)
    fit = trainer(max_epochs=-1, max_steps=15, use_distributed_sampler=True, limit_val_batches=0)
    fit.fit(model, data)
    fit.save_checkpoint(tmp_path / "model.ckpt")

    module = load_module(tmp_path / "model.ckpt").eval()
    tokenizer = module.record.load_tokenizer()
    assert export_bundle(module, tokenizer, tmp_path / "bundle").token_agreement == 1.0
    generator = Generator.from_bundle(tmp_path / "bundle", threads=1)
    assert generator.manifest.chat == data.chat == module.record.chat

    form = ChatFormat.from_dict(module.record.chat, tokenizer)
    long = [*talk(200)[:-1], "yes", *talk(201)[:-1], "yes", *talk(202)[:-1], "yes", *talk(203)[:-1]]
    questions = [read_turns(turns) for turns in (talk(100)[:-1], talk(101)[:-3], talk(102)[:1], long)]
    for question in questions:
        prompt = generator.chat_prompt(question, max_new_tokens=8)
        assert prompt.token_ids == form.prompts([question], [80 if kind is EncoderDecoder else 72])[0].encoded
        (wanted,) = generate_ids(module, [prompt.token_ids], {"max_new_tokens": 8})
        completion = generator.chat(question, max_new_tokens=8)
        assert completion.token_ids == wanted
        assert "".join(generator.stream_chat(question, max_new_tokens=8)) == completion.text
    assert (prompt.dropped > 0) == (data_options.get("history") not in (0, 1))
    # A text alone is a question.
    (alone,) = generator.generate(["my name is bob"], max_new_tokens=8)
    assert alone == generator.chat(read_turns(["my name is bob"]), max_new_tokens=8)


def test_what_is_trained_is_what_is_asked():
    """The prompt of every answer is the beginning of the training example, its answer and stop token follow."""
    from litseq.text import ChatTemplate, Tokenizer

    turns = read_turns(talk(1))
    tokenizer = Tokenizer.train(talk(1), vocab_size=90, special_tokens=["<|im_start|>", "<|im_end|>"])
    form = ChatFormat(ChatTemplate(tokenizer), (6,))
    (whole,) = form.template.encode_labelled([turns])
    for (begin, end), after in zip(whole.spans, [*whole.spans[1:], (len(whole), 0)], strict=True):
        answers = turns[: 2 * whole.spans.index((begin, end)) + 1]
        assert form.prompts([answers], [999])[0].encoded == whole.ids[:begin]
        assert whole.ids[end - 1] == form.stop_ids[0]
        assert after[0] >= end
    assert all(a[1] < b[0] for a, b in pairwise(whole.spans))
