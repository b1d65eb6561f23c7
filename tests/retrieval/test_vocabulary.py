"""Whether a vocabulary knows a corpus' language, with vocabularies that were learned on one language or several."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from embedfit.retrieval.vocabulary import MULTILINGUAL, known

TEXTS = {
    "English": [
        "The remote control is not paired with the television, and there is no sound after you press the button.",
        "When the light is green, you can use the menu to change the language of the screen and all of its settings.",
        "Before you clean the device, turn it off and wait until the lamp has been cold for more than ten minutes.",
    ],
    "German": [
        "Die Fernbedienung ist nicht mit dem Fernseher verbunden, und nach dem Drücken der Taste gibt es keinen Ton.",
        "Wenn das Licht grün ist, können Sie über das Menü die Sprache des Bildschirms und alle Einstellungen ändern.",
        "Bevor Sie das Gerät reinigen, schalten Sie es aus und warten Sie, bis die Lampe über zehn Minuten kalt ist.",
    ],
    "Russian": [
        "Пульт не связан с телевизором, и после нажатия кнопки звука нет, хотя экран включён и меню видно.",
        "Когда горит зелёный свет, вы можете через меню изменить язык экрана и все его настройки для всех.",
        "Перед чисткой устройства выключите его и подождите, пока лампа не будет холодной больше десяти минут.",
    ],
    "Chinese": [
        "遥控器没有与电视配对，按下按钮后没有声音，但是屏幕是亮的，菜单也可以看到。",
        "当指示灯为绿色时，您可以通过菜单更改屏幕的语言以及所有其他的设置和选项。",
        "清洁设备之前，请先将其关闭，并等待十分钟以上，直到灯泡完全冷却为止才可以。",
    ],
}


def corpus(language):
    return [f"{text} {number}." for number in range(8) for text in TEXTS[language]]


def vocabulary(*languages, letters=""):
    """A WordPiece vocabulary of some languages. letters: further single ones that it has."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789" + letters))
    trainer = trainers.WordPieceTrainer(vocab_size=1_500, special_tokens=["[UNK]"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text for one in languages for text in corpus(one)], trainer)
    return tokenizer


@pytest.mark.parametrize("language", ["English", "German", "Russian", "Chinese"])
def test_a_vocabulary_knows_the_languages_that_it_was_learned_on(language):
    for tokenizer in (vocabulary(language), vocabulary(*TEXTS)):
        found = known(tokenizer, corpus(language))
        assert found.is_known and found.warning("any") == ""


@pytest.mark.parametrize(("language", "letters"), [("German", "äöüß"), ("Russian", ""), ("Chinese", "")])
def test_it_does_not_know_others(language, letters):
    found = known(vocabulary("English", letters=letters), corpus(language))
    assert not found.is_known
    said = found.warning("minilm")
    assert said.startswith(f"The model minilm does not seem to know {language}") and f"--model {MULTILINGUAL}" in said
    assert MULTILINGUAL not in found.warning(MULTILINGUAL).replace(f"The model {MULTILINGUAL}", "")


def test_letters_alone_are_no_knowledge():
    """A vocabulary that has every letter of Russian and none of its words."""
    letters = sorted({letter for text in TEXTS["Russian"] for letter in text.lower() if letter.isalpha()})
    tokens = ["[UNK]", "a", ".", ",", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found = known(tokenizer, corpus("Russian"))
    assert found.unknown < 0.03 and found.whole < 0.3 and not found.is_known


def test_numbers_and_little_text_are_no_sign():
    english = vocabulary("English")
    assert known(english, ["1,234 5,678", "9 % 12"]).is_known
    assert known(english, []).is_known
