"""Tokenizers from elsewhere, with the names and templates that published ones have."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from litseq.errors import DataError
from litseq.text import Tokenizer


def foreign(special, padding=None, template=None):
    """A byte-level tokenizer as another project would publish it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: index for index, token in enumerate([*special, *alphabet])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=words, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    if padding:
        backend.enable_padding(pad_id=words[padding], pad_token=padding)
        backend.enable_truncation(max_length=3)
    if template:
        names = [name for name in special if name in template]
        backend.post_processor = processors.TemplateProcessing(
            single=template, pair=None, special_tokens=[(name, words[name]) for name in names]
        )
    return backend.to_str()


@pytest.mark.parametrize(
    ("special", "found"),
    [
        # (names in the order of their ids) -> (pad, bos, eos, unk, sep)
        (["<s>", "<pad>", "</s>", "<unk>"], (1, 0, 2, 3, None)),  # RoBERTa
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]"], (0, 2, 3, 1, 3)),  # BERT
        (["<|endoftext|>"], (0, 0, 0, None, None)),  # GPT-2
        (["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"], (2, 0, 1, None, None)),  # Llama 3
        (["<pad>", "</s>", "<unk>"], (0, 1, 1, 2, None)),  # T5
        (["[BOS]", "[EOS]"], (1, 0, 1, None, None)),
    ],
)
def test_common_names_are_found(special, found):
    tokenizer = Tokenizer.from_json(foreign(special))
    ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.sep_id)
    assert ids == found


def test_what_the_file_states_comes_before_common_names():
    text = foreign(["<s>", "</s>", "<start>", "<stop>", "<fill>"], padding="<fill>", template="<start> $A <stop>")
    tokenizer = Tokenizer.from_json(text)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 3, 4)
    # Neither the template, nor the padding, nor the truncation to three tokens of the file is applied.
    assert len(tokenizer.encode("a long text")) == len("a long text")
    assert tokenizer.encode_batch(["abcdef", "a"])[0] == tokenizer.encode("abcdef")


def test_names_given_win_and_last(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(foreign(["<s>", "</s>", "START", "STOP", "FILL", "MID"]))
    tokenizer = Tokenizer.load(path, bos="START", eos="STOP", pad="FILL", sep="MID")
    for each in (tokenizer, Tokenizer.from_json(tokenizer.to_json())):
        assert (each.bos_id, each.eos_id, each.pad_id, each.sep_id) == (2, 3, 4, 5)
        assert each.decode([2, *each.encode("dog"), 3, 4]) == "dog"
    # Stated in the fields the `tokenizers` package has for it, so others read it too.
    assert tokenizers.Tokenizer.from_str(tokenizer.to_json()).encode("a").tokens == ["START", "a", "STOP"]


def test_a_name_that_is_not_there_and_no_end_at_all_are_errors(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(foreign(["<hello>"]))
    with pytest.raises(DataError, match="no end token found"):
        Tokenizer.load(path)
    with pytest.raises(DataError, match="eos='<bye>' is not in its vocabulary"):
        Tokenizer.load(path, eos="<bye>")
    assert Tokenizer.load(path, eos="<hello>").bos_id == 0


def test_vocab_size_covers_gaps_between_ids():
    document = json.loads(foreign(["</s>"]))
    document["model"]["vocab"]["extra"] = 999
    assert Tokenizer.from_json(json.dumps(document)).vocab_size == 1000


def test_a_strange_template_is_left_alone():
    document = json.loads(foreign(["<s>", "</s>"]))
    document["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    assert Tokenizer.from_json(json.dumps(document)).eos_id == 1
