"""E-mails and mailboxes → blocks: the subject as the heading, sender and recipients, and the text of the message."""

from __future__ import annotations

import base64
import email
import email.errors
import email.header
import email.message
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from embedfit.corpus.blocks import Block, ParsedDocument, UnreadableDocument
from embedfit.corpus.cleaning import clean_line
from embedfit.corpus.readers.decoding import declared_encoding, decode
from embedfit.corpus.readers.registry import Progress, Reader
from embedfit.corpus.readers.texts import html, markdown
from embedfit.corpus.readers.texts import plain as text

_HEADERS = ("From", "To", "Cc", "Date")
_HEADER_LINE = re.compile(rb"[!-9;-~]{1,100}:[ \t\r\n]")
_KNOWN_HEADERS = re.compile(rb"^(?:from|to|subject|date|received|message-id|mime-version|return-path):", re.I | re.M)
_MESSAGE_START = re.compile(rb"^From [^\n]*\n", re.M)
_QUOTE = re.compile(r"^(?:> ?)+", re.M)
_FLOWED = re.compile(r" \n(?!>|-- \n)")
_BASE64 = re.compile(r"[A-Za-z0-9+/=]*\s*")
#: Kinds of text that a message is read from; text of other kinds (calendars, cards) is an attachment.
_ENRICHED = frozenset(("text/enriched", "text/richtext"))
_TEXT = frozenset(("text/plain",)) | _ENRICHED
_ENRICHED_CODES = re.compile(r"<param>[^<]{0,200}</param>|</?[a-z]{1,20}>", re.I)
_PAGES = frozenset(("text/html", "text/x-amp-html", "application/xhtml+xml"))
_MARKDOWN = frozenset(("text/markdown", "text/x-markdown"))
#: The standard library takes quadratic time for the parameters of these headers. No program writes 64 KiB of them.
_KIND = re.compile(rb"^content-(?:type|disposition):[^\n]*(?:\n[ \t][^\n]*)*", re.I | re.M)
_LONGEST_KIND, _MAX_KIND = 1 << 16, 1 << 12
_MAX_DEPTH = 40
_MAX_HEADER = 1000
_MAX_LISTED = 20


def read_mail(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of one e-mail (.eml). Attachments are named in the note."""
    data = path.read_bytes()
    if not _KNOWN_HEADERS.search(data[: 1 << 16]):
        raise UnreadableDocument("not a readable e-mail: it has none of the usual headers")
    attached: list[str] = []
    blocks = tuple(_message_blocks(_parsed(data), attached, 0))
    return ParsedDocument(blocks=blocks, note=_note(attached))


def read_mailbox(path: Path, progress: Progress | None = None) -> ParsedDocument:
    """The blocks of a mailbox (.mbox), one message after the other."""
    data = path.read_bytes()
    starts = [match for match in _MESSAGE_START.finditer(data) if _HEADER_LINE.match(data, match.end())]
    if not starts:
        raise UnreadableDocument("not a readable mailbox: it has no messages")
    attached: list[str] = []
    blocks: list[Block] = []
    for number, match in enumerate(starts, 1):
        end = starts[number].start() if number < len(starts) else len(data)
        message = re.sub(rb"^>(?=>*From )", b"", data[match.end() : end], flags=re.M)
        blocks += _message_blocks(_parsed(message), attached, 0)
        if progress is not None:
            progress(number, len(starts))
    return ParsedDocument(blocks=tuple(blocks), note=_note(attached))


def _parsed(data: bytes) -> email.message.Message:
    data = _KIND.sub(lambda match: match[0][: _MAX_KIND if len(match[0]) > _LONGEST_KIND else None], data)
    try:
        # The older policy, because the newer one takes minutes for some malformed headers.
        return email.message_from_bytes(data)
    except RecursionError as error:
        raise UnreadableDocument("its parts are nested too deep") from error


def _note(attached: list[str]) -> str:
    if not attached:
        return ""
    names = ", ".join(attached[:_MAX_LISTED]) + (", …" if len(attached) > _MAX_LISTED else "")
    return f"{len(attached)} attachment{'s' * (len(attached) != 1)} not read: {names}"


def _message_blocks(message: email.message.Message, attached: list[str], depth: int) -> Iterator[Block]:
    subject = _header(message, "Subject")
    if subject:
        yield Block(kind="heading", text=subject, level=1 + min(depth, 4))
    lines = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    if lines:
        yield Block(kind="text", text="\n".join(lines))
    yield from _part_blocks(message, attached, depth)


def _part_blocks(part: email.message.Message, attached: list[str], depth: int) -> Iterator[Block]:
    """The text of a message or of a part of it. attached: extended with the names of parts that are not text."""
    kind = part.get_content_type()
    if depth > _MAX_DEPTH:
        attached.append("parts nested too deep")
    elif kind == "message/rfc822" and part.is_multipart():
        for inner in _children(part):
            yield from _message_blocks(_unwrapped(inner, part), attached, depth + 1)
    elif kind == "multipart/alternative":
        yield from _richest(part, attached, depth)
    elif part.is_multipart():
        for inner in _children(part):
            yield from _part_blocks(inner, attached, depth + 1)
    elif part.get_content_disposition() == "attachment" or not _is_body(kind):
        if part.get_content_maintype() != "image" or part.get_content_disposition() == "attachment":
            attached.append(_filename(part) or kind)
    else:
        yield from _text_blocks(part, kind)


def _children(part: email.message.Message) -> list[email.message.Message]:
    payload = part.get_payload()
    return [one for one in payload if isinstance(one, email.message.Message)] if isinstance(payload, list) else []


def _is_body(kind: str) -> bool:
    # A part that claims to have parts but has none is text that some program cut or mangled.
    return kind in _TEXT or kind in _PAGES or kind in _MARKDOWN or kind.startswith("multipart/")


def _unwrapped(inner: email.message.Message, outer: email.message.Message) -> email.message.Message:
    """A forwarded message, decoded: some programs encode it as a whole although the standard forbids that."""
    encoding = str(outer.get("Content-Transfer-Encoding", "")).strip().lower()
    if inner.keys() or encoding not in ("base64", "quoted-printable"):
        return inner
    inner["Content-Transfer-Encoding"] = encoding
    return _parsed(_bytes(inner))


def _bytes(part: email.message.Message) -> bytes:
    """A part's content. Lines without base64 in a base64 part, such as a mailing list's footer, stay."""
    payload = part.get_payload()
    if isinstance(payload, str) and str(part.get("Content-Transfer-Encoding", "")).strip().lower() == "base64":
        lines = payload.splitlines()
        coded = list(itertools.takewhile(_BASE64.fullmatch, lines))
        if any(line.strip() for line in lines[len(coded) :]):
            try:
                start = base64.b64decode("".join(coded) + "==")
            except ValueError:
                start, coded = b"", []
            return start + "\n".join(["", *lines[len(coded) :]]).encode("utf-8", "replace")
    decoded = part.get_payload(decode=True)
    return decoded if isinstance(decoded, bytes) else b""


def _richest(part: email.message.Message, attached: list[str], depth: int) -> Iterator[Block]:
    """The form of a message that has the most text: the plain one, unless it only says to look at the other."""
    best: list[Block] = []
    most = 0.0
    for inner in _children(part):
        blocks = list(_part_blocks(inner, attached, depth + 1))
        size = sum(len(block.text) for block in blocks)
        if size > 1.5 * most:
            best, most = blocks, size
    yield from best


def _text_blocks(part: email.message.Message, kind: str) -> Iterator[Block]:
    data = _bytes(part)
    charset = part.get_param("charset")
    declared = charset if isinstance(charset, str) else declared_encoding(data) if kind in _PAGES else ""
    try:
        body, _ = decode(data, declared=declared)
    except UnreadableDocument:
        return
    if kind in _PAGES or kind in _MARKDOWN:
        yield from (html if kind in _PAGES else markdown).blocks_of(body)
        return
    if kind in _ENRICHED:
        body = _ENRICHED_CODES.sub("", body)
    if str(part.get_param("format", "")).lower() == "flowed":
        body = _FLOWED.sub(" ", body)
    yield from text.blocks_of(_QUOTE.sub("", body))


def _header(message: email.message.Message, name: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    parts = []
    try:
        for data, charset in email.header.decode_header(str(value)[: 10 * _MAX_HEADER]):
            parts.append(decode(data, declared=charset or "")[0] if isinstance(data, bytes) else data)
    except (email.errors.HeaderParseError, ValueError, UnreadableDocument):
        parts = [str(value)]
    return clean_line("".join(parts))[:_MAX_HEADER]


def _filename(part: email.message.Message) -> str:
    try:
        name = part.get_filename() or ""
    except (LookupError, ValueError, TypeError):
        return ""
    try:
        name = "".join(
            data.decode(charset or "utf-8", "replace") if isinstance(data, bytes) else data
            for data, charset in email.header.decode_header(name)
        )
    except (email.errors.HeaderParseError, LookupError, ValueError):
        pass
    return clean_line(name)[:200]


def _is_mail(head: bytes) -> bool:
    lines = head[:4096].split(b"\n\n")[0].split(b"\r\n\r\n")[0]
    return bool(_HEADER_LINE.match(head)) and len({found.lower() for found in _KNOWN_HEADERS.findall(lines)}) >= 3


READER = Reader(kind="mail", extensions=(".eml",), read=read_mail, sniff=_is_mail)
MAILBOX = Reader(kind="mailbox", extensions=(".mbox", ".mbx"), read=read_mailbox)
