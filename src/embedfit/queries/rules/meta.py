"""Patterns of queries that talk about a text instead of its content, one for each language that we know."""

from __future__ import annotations

import re

_ENGLISH = (
    r"\b(?:(?:this|the|given|above|following|provided) (?:passage|text|paragraph|document|excerpt|article|context|"
    r"author|sentence|section)|according to the|passage (?:says|describes|mentions|above)|as an ai|language model|"
    r"(?:i'm |i am )?sorry,? (?:but )?i|i can(?:no|['’])t (?:assist|comply|provide|"
    r"fulfil|answer (?:that|this|the)|help (?:you|with)|(?:write|generate|create) (?:a |any |search )*"
    r"(?:quer(?:y|ies)|questions?)|see (?:a|the) passage)|search quer(?:y|ies)|"
    r"write (?:a|one|the) (?:question|query))\b"
)
_GERMAN = (
    r"\b(?:diese[mnrs]?|obige[mnrs]?|vorliegende[mnrs]?|gegebene[mnrs]?|laut(?: de[mr])?|gemäß de[mr]|im)"
    r"(?: (?:obigen|vorliegenden|gegebenen|folgenden))? (?:text(?:e?s)?|text(?:abschnitt|auszug|"
    r"passage)(?:e?s)?|passage|auszugs?)\b|"
    r"\b(?:diese[mnrs]?|laut(?: de[mr])?|im (?:obigen|vorliegenden|gegebenen|folgenden)) "
    r"(?:abschnitt(?:e?s)?|absatz(?:es)?|dokument(?:e?s)?|artikels?)\b|\bals (?:ein )?(?:ki|sprachmodell)\b|"
    r"\bes tut mir leid\b"
)
_FRENCH = (
    r"\b(?:ce|cet|cette|le présent|dans le|selon l[ea]|d['’]après l[ea]) (?:texte|passage|extrait)\b|"
    r"\b(?:ce|selon l[ea]|d['’]après l[ea]) (?:document|paragraphe|contexte)\b|\b(?:cet|selon l|"
    r"d['’]après l)['’ ]?(?:article|extrait)\b|"
    r"\b(?:texte|passage|extrait|document|paragraphe) (?:ci-dessus|suivant|fourni|donné)\b|"
    r"\ben tant qu['’]ia\b|\bje suis désolée?\b"
)
_SPANISH = (
    r"\b(?:este|según el|de acuerdo con el|en el|del) (?:texto|pasaje|fragmento|extracto)\b|"
    r"\b(?:este|según el|de acuerdo con el) (?:documento|párrafo|artículo|contexto)\b|"
    r"\b(?:texto|pasaje|fragmento|documento|párrafo) (?:anterior|dado|proporcionado|siguiente)\b|"
    r"\bcomo (?:una )?ia\b|\blo siento, (?:pero )?no\b"
)
_PORTUGUESE = (
    r"\b(?:este|neste|deste|segundo o|de acordo com o|conforme o|no|do) (?:texto|trecho|excerto)\b|"
    r"\b(?:este|neste|deste|segundo o|de acordo com o) (?:documento|parágrafo|artigo|contexto)\b|"
    r"\b(?:texto|trecho|documento|parágrafo) (?:acima|fornecido|dado|a seguir)\b|\bcomo (?:uma )?ia\b|"
    r"\bdesculpe, (?:mas )?(?:eu )?não\b"
)
_ITALIAN = (
    r"\b(?:questo|secondo il|in base al|nel|del) (?:testo|brano|passaggio|passo)\b|"
    r"\b(?:questo|secondo il|in base al) (?:documento|paragrafo|contesto)\b|\b(?:quest['’]|"
    r"secondo l['’])(?:articolo|estratto)\b|"
    r"\b(?:testo|brano|documento|paragrafo) (?:sopra|precedente|fornito|dato|seguente)\b|\bin quanto ia\b|"
    r"\bmi dispiace, (?:ma )?non\b"
)
_DUTCH = (
    r"\b(?:deze|dit|volgens de|in de|bovenstaande|gegeven) (?:tekst|passage|alinea)\b|"
    r"\b(?:dit|volgens het|bovenstaand) (?:document|artikel|fragment)\b"
)
_RUSSIAN = (
    r"\b(?:согласно|по|в|из) (?:(?:этом|данно|приведённо|приведенно)\w* )?(?:текст[уеа]|отрывк[уеа]|абзац[уеа])\b|"
    r"\b(?:эт(?:от|ом|ого|ому)|данн(?:ый|ом|ого|ому)|привед[её]нн\w+) (?:текст\w*|отрыв\w+|абзац\w*|"
    r"документ\w*|фрагмент\w*|стать\w+)\b|"
    r"\bкак (?:ии|языковая модель)\b"
)
# 文本文件 (text file), 基本文化 (basic culture) and 英文中 (in English) hold these signs by chance.
_CHINESE = (
    r"(?<![文基样樣])本文(?![件档檔化字学學艺藝明])|(?:^|[，,在据據从從])文中|"
    r"(?:该|該|此|这|這|以上|上述|给定|給定|所给|所給|提供的)(?:段|篇|份)?(?:文章|文本|文段|段落|文字|文档|文檔|短文|原文|资料|資料|材料)|"
    r"(?:这|這|该|該|此|本)(?:段|篇)(?:话|話|内容|內容|文)|(?:以上|上述)(?:内容|內容)|"
    r"(?:根据|根據|依据|依據|按照)(?:文章|文本|文档|文檔|段落|原文|上文|短文|文段)|作为(?:一个|一名)?(?:AI|人工智能|语言模型)|(?:抱歉|对不起)，我"
)
_JAPANESE = (
    r"(?:この|その|上記の|以下の|次の|与えられた)(?:文章|文書|文(?![字化学法明具房])|テキスト|パッセージ|段落|記事|抜粋)|"
    r"(?:文章|本文|文書|テキスト|段落|記事)(?:によると|によれば|に基づ|の中で|で述べ)|本文書|申し訳ありません|言語モデル"
)
_KOREAN = (
    r"(?<!\w)(?:이|위|본|해당|주어진|다음|제시된) ?(?:글|본문|텍스트|지문|단락|문단|문서|구절|기사)"
    r"(?=[\s은는이가을를의에서과와,?.]|$)|"
    r"(?:본문|지문|텍스트|문서|문단|글)에 (?:따르면|의하면|나온|나오는|언급|나타난)|언어 ?모델|죄송(?:합니다|하지만)"
)

#: A query that talks about its text.
META = re.compile(
    "|".join(
        (_ENGLISH, _GERMAN, _FRENCH, _SPANISH, _PORTUGUESE, _ITALIAN, _DUTCH, _RUSSIAN, _CHINESE, _JAPANESE, _KOREAN)
    ),
    re.IGNORECASE,
)
