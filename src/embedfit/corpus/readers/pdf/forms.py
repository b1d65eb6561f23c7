"""Text that people typed into a PDF: values of form fields and text boxes, which are not in a page's own text."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pypdfium2
import pypdfium2.raw as pdfium

_COMMENTS = frozenset(
    (pdfium.FPDF_ANNOT_TEXT, pdfium.FPDF_ANNOT_HIGHLIGHT, pdfium.FPDF_ANNOT_UNDERLINE, pdfium.FPDF_ANNOT_SQUIGGLY,
     pdfium.FPDF_ANNOT_STRIKEOUT, pdfium.FPDF_ANNOT_CARET, pdfium.FPDF_ANNOT_SQUARE, pdfium.FPDF_ANNOT_CIRCLE,
     pdfium.FPDF_ANNOT_LINE, pdfium.FPDF_ANNOT_INK, pdfium.FPDF_ANNOT_STAMP)
)  # fmt: skip
_CHOICES = (pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX)
_BOXES = (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON)
_HIDDEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_MAX_ANNOTATIONS = 10_000
_MAX_OPTIONS = 1_000
_MAX_VALUE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something typed. box: left, bottom, right, top in points. name: the field's label, "" without one.

    is_comment: a remark about the page, not a part of it. is_mark: a ticked box.
    """

    text: str
    box: tuple[float, float, float, float]
    name: str = ""
    is_comment: bool = False
    is_mark: bool = False


def entries(document: pypdfium2.PdfDocument, page: pypdfium2.PdfPage, seen: set[str]) -> Iterator[Entry]:
    """The entries of a page. seen: names of fields already given, because a field may be in several places."""
    form = document.formenv.raw if document.formenv is not None else None
    for index in range(min(pdfium.FPDFPage_GetAnnotCount(page), _MAX_ANNOTATIONS)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            if not pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
                yield from _entry(form, annotation, seen)
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)


def _entry(form: pdfium.FPDF_FORMHANDLE | None, annotation: pdfium.FPDF_ANNOTATION, seen: set[str]) -> Iterator[Entry]:
    kind = pdfium.FPDFAnnot_GetSubtype(annotation)
    if kind == pdfium.FPDF_ANNOT_WIDGET and form is not None:
        yield from _field(form, annotation, seen)
    elif kind == pdfium.FPDF_ANNOT_FREETEXT or kind in _COMMENTS:
        text = _string(lambda *place: pdfium.FPDFAnnot_GetStringValue(annotation, b"Contents", *place))
        if text.strip():
            yield Entry(text=text, box=_box(annotation), is_comment=kind in _COMMENTS)


def _field(form: pdfium.FPDF_FORMHANDLE | None, annotation: pdfium.FPDF_ANNOTATION, seen: set[str]) -> Iterator[Entry]:
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    label = _string(lambda *place: pdfium.FPDFAnnot_GetFormFieldAlternateName(form, annotation, *place)).strip()
    if kind in _BOXES:
        if pdfium.FPDFAnnot_IsChecked(form, annotation):
            yield Entry(text="☒", box=_box(annotation), name=label, is_mark=True)
        return
    if kind == pdfium.FPDF_FORMFIELD_TEXTFIELD:
        flags = pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation)
        if flags & pdfium.FPDF_FORMFLAG_TEXT_PASSWORD:
            return
    elif kind not in _CHOICES:
        return
    value = _chosen(form, annotation) if kind in _CHOICES else ""
    value = value or _string(lambda *place: pdfium.FPDFAnnot_GetFormFieldValue(form, annotation, *place))
    name = _string(lambda *place: pdfium.FPDFAnnot_GetFormFieldName(form, annotation, *place))
    if not value.strip() or name in seen:
        return
    if name:
        seen.add(name)
    yield Entry(text=value, box=_box(annotation), name=label)


def _chosen(form: pdfium.FPDF_FORMHANDLE | None, annotation: pdfium.FPDF_ANNOTATION) -> str:
    """The labels of the chosen options: a field's value may be a code for them."""
    count = min(pdfium.FPDFAnnot_GetOptionCount(form, annotation), _MAX_OPTIONS)
    chosen = [index for index in range(count) if pdfium.FPDFAnnot_IsOptionSelected(form, annotation, index)]
    return ", ".join(
        _string(lambda *place, index=index: pdfium.FPDFAnnot_GetOptionLabel(form, annotation, index, *place))
        for index in chosen
    )


def _box(annotation: pdfium.FPDF_ANNOTATION) -> tuple[float, float, float, float]:
    rectangle = pdfium.FS_RECTF()
    pdfium.FPDFAnnot_GetRect(annotation, rectangle)
    x0, x1 = sorted((rectangle.left, rectangle.right))
    y0, y1 = sorted((rectangle.bottom, rectangle.top))
    return x0, y0, x1, y1


def _string(call: Callable[..., int]) -> str:
    """The UTF-16 text that a C function writes into a buffer; called without one, it returns the size in bytes."""
    size = min(call(None, 0), _MAX_VALUE)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    call(ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return buffer.raw[: size - size % 2].decode("utf-16-le", "replace").rstrip("\0")
