"""Figures of TeX sources, for papers without an HTML page.

Belongs here: reading TeX as far as figures and captions need it: comments, included files, simple macros, balanced
braces. It is no TeX: what it does not know it leaves out of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from posixpath import dirname, normpath

from atomvision_ml.literature.figures import SourceFigure, SubFigure, plain_text

FIGURE_ENVIRONMENTS = ("figure", "figure*", "wrapfigure", "SCfigure", "sidewaysfigure")
IMAGE_ENDINGS = (".pdf", ".png", ".jpg", ".jpeg", ".eps", ".ps", ".tif", ".tiff", ".gif")
_MAXIMUM_DEPTH, _MAXIMUM_MACROS, _MAXIMUM_CHARACTERS = 8, 400, 20_000_000

_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*?(?:\n[ \t]*|$)")
_INCLUDE = re.compile(r"\\(?:input|include|subfile)(?![A-Za-z])\s*(?:\{([^{}]+)\}|([^\s{}\\]+))")
_MACRO = re.compile(
    r"""\\(?:(?:re)?newcommand|providecommand|DeclareRobustCommand)\*?\s*\{?\s*\\([A-Za-z]+)\s*\}?\s*(\[\d\])?\s*(?=\{)
    |\\def\s*\\([A-Za-z]+)\s*(?=\{)""",
    re.VERBOSE,
)
_IMAGE = re.compile(
    r"""\\(?:includegraphics\*?|epsfig|psfig|plotone|epsfbox|epsffile|includesvg)\s*(?:\[[^\]]*\])*\s*(?=\{)
    |\\begin\{overpic\}\s*(?:\[[^\]]*\])?\s*(?=\{)""",
    re.VERBOSE,
)
_FILE_KEY = re.compile(r"(?:file|figure)\s*=\s*([^,}\s]+)")
_CAPTION = re.compile(r"\\(?:caption|subcaption|captionof\s*\{figure\})\*?\s*(?:\[(?:[^\[\]]|\[[^\]]*\])*\])?\s*(?=\{)")
_SUBFLOAT = re.compile(r"\\(?:subfloat|subfigure|subcaptionbox)\s*(?=[\[{])")
_PATHS = re.compile(r"\\graphicspath\s*(?=\{)")
_SILENT = re.compile(
    r"""\\(?:label|cite[a-z]*\*?|ref|eqref|autoref|cref|Cref|vspace|hspace|vskip|color|textcolor|footnote|footnotemark
    |footnotetext|includegraphics|centering|bibitem|protect)(?![A-Za-z])\*?\s*(?:\[[^\]]*\])*\s*(?:\{[^{}]*\})?""",
    re.VERBOSE,
)


def _pairs(words: str) -> dict[str, str]:
    names, signs = words.split()[::2], words.split()[1::2]
    return dict(zip(names, signs, strict=True))


_SYMBOLS = _pairs("""
alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π
rho ρ sigma σ tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ
Upsilon Υ Phi Φ Psi Ψ Omega Ω AA Å
aa å degree ° circ ° times × pm ± mp ∓ sim ∼ approx ≈ leq ≤ geq ≥ le ≤ ge ≥ to → rightarrow → langle ⟨ rangle ⟩
parallel ∥ perp ⊥ cdot · ldots … dots … ss ß o ø O Ø ae æ AE Æ l ł textmu μ micro μ bar - overline - textdegree °
angstrom Å infty ∞ prime ′ textendash – textemdash —
""") | dict.fromkeys(("quad", "qquad", "newline", "par"), " ")
_PRINTED_BRACES = "\ue000\ue001"
"""Stand for braces of the text while those of TeX are removed."""
_ACCENT_NAMES = "`'^~\"=.cvuHkr"
_ACCENT_MARKS = "\u0300\u0301\u0302\u0303\u0308\u0304\u0307\u0327\u030c\u0306\u030b\u0328\u030a"
_ACCENTS = dict(zip(_ACCENT_NAMES, _ACCENT_MARKS, strict=True))


class TexError(ValueError):
    """The source cannot be read as TeX; the message says where."""


def parse_figures(members: Mapping[str, str]) -> list[SourceFigure]:
    """The figures of a paper.

    Args:
        members: text of the archive's TeX files by member name.

    Returns:
        Figures in the order of the text, numbered by their place. Images are member names where the archive's names
        were given in ``members`` too, else as the source writes them.

    Raises:
        TexError: no main file, or sources that include each other without end.
    """
    return list(_figures(*_prepared(members), {}))


def figures_of_archive(texts: Mapping[str, str], names: set[str]) -> list[SourceFigure]:
    """The figures of an archive, their images as its member names.

    Args:
        texts: text of its TeX files by member name.
        names: names of all its members.

    Raises:
        TexError: as :func:`parse_figures`.
    """
    return list(_figures(*_prepared(texts), {name.lower(): name for name in names}))


def main_file(texts: Mapping[str, str]) -> str:
    """The file that makes the paper: with a document class and a document; of several the longest.

    Raises:
        TexError: there is none.
    """
    begun = [name for name, text in texts.items() if re.search(r"\\document(?:class|style)", text)]
    whole = [name for name in begun if "\\begin{document}" in texts[name]] or begun
    if not whole:
        raise TexError(f"none of {len(texts)} TeX files begins a document")
    return max(whole, key=lambda name: (len(texts[name]), name))


def balanced(text: str, start: int) -> str | None:
    """What stands between the brace or bracket at ``start`` and the one that closes it; None if it is not closed."""
    opening = text[start]
    closing = {"{": "}", "[": "]"}[opening]
    depth, place = 0, start
    while place < len(text):
        character = text[place]
        if character == "\\":
            place += 2
            continue
        if character == opening:
            depth += 1
        elif character == closing:
            depth -= 1
            if depth == 0:
                return text[start + 1 : place]
        place += 1
    return None


def tex_to_text(tex: str) -> str:
    """Plain text of a piece of TeX: subscripts on the line, superscripts after ``^``, formulas without their signs."""
    text = _SILENT.sub(" ", tex)
    text = re.sub(r"\\\\(\[[^\]]*\])?", " ", text)
    text = text.replace("\\{", _PRINTED_BRACES[0]).replace("\\}", _PRINTED_BRACES[1])
    text = re.sub(r"\\([`'^~\"=.])\s*(?:\{\s*\\?([A-Za-z])\s*\}|\\?([A-Za-z]))", _accent, text)
    text = re.sub(r"\\([cvuHkr])\s*(?:\{\s*\\?([A-Za-z])\s*\}|\s\\?([A-Za-z]))", _accent, text)
    text = re.sub(r"\\([A-Za-z]+)\*?", lambda match: _SYMBOLS.get(match[1], ""), text)
    text = re.sub(r"\\([,;:!/])", lambda match: " " if match[1] in ",;:" else "", text)
    text = re.sub(r"\\([%&#_$ ])", r"\1", text)
    text = text.replace("---", "—").replace("--", "–").replace("``", "“").replace("''", "”").replace("~", " ")
    text = re.sub(r"\^\s*\{\s*°\s*\}|\^\s*°", "°", text)
    text = re.sub(r"_\s*\{([^{}]*)\}|_\s*(.)", lambda match: (match[1] or match[2] or "").strip(), text)
    text = re.sub(r"\^\s*\{([^{}]*)\}", lambda match: "^" + match[1].strip(), text)
    text = re.sub(r"[{}$]", "", text)
    return plain_text(text.replace(_PRINTED_BRACES[0], "{").replace(_PRINTED_BRACES[1], "}"))


def _prepared(members: Mapping[str, str]) -> tuple[str, list[str]]:
    texts = {name: _COMMENT.sub(r"\1", text) for name, text in members.items()}
    main = main_file(texts)
    text = _included(texts[main], texts, dirname(main), 0)
    return _expanded(text), _graphics_paths(text)


def _included(text: str, texts: Mapping[str, str], folder: str, depth: int) -> str:
    if depth > _MAXIMUM_DEPTH or len(text) > _MAXIMUM_CHARACTERS:
        raise TexError("the TeX files include each other without end")

    def content(match: re.Match[str]) -> str:
        name = normpath(f"{folder}/{match[1] or match[2]}".lstrip("/"))
        for candidate in (name, f"{name}.tex"):
            if candidate in texts:
                return _included(texts[candidate], texts, folder, depth + 1)
        return " "

    return _INCLUDE.sub(content, text)


def _expanded(text: str) -> str:
    """Macros without arguments replaced by what they stand for."""
    macros = {}
    for match in list(_MACRO.finditer(text))[:_MAXIMUM_MACROS]:
        body = balanced(text, match.end())
        if body is not None and match[2] is None and "#" not in body and len(body) < 500:
            macros[match[1] or match[3]] = body
    if not macros:
        return text
    pattern = re.compile(r"\\(" + "|".join(sorted(macros, key=len, reverse=True)) + r")(?![A-Za-z])(\s*\{\}|\\ )?")
    _, _, body = text.partition("\\begin{document}")
    for _ in range(3):
        replaced = pattern.sub(lambda match: macros[match[1]] + (" " if match[2] == "\\ " else ""), body)
        if replaced == body or len(replaced) > _MAXIMUM_CHARACTERS:
            break
        body = replaced
    return body


def _graphics_paths(text: str) -> list[str]:
    found = _PATHS.search(text)
    inside = balanced(text, found.end()) if found else None
    return ["", *re.findall(r"\{([^{}]*)\}", inside or "")]


def _figures(text: str, paths: list[str], names: Mapping[str, str]) -> Iterator[SourceFigure]:
    environment = "|".join(re.escape(name) for name in FIGURE_ENVIRONMENTS)
    for place, match in enumerate(re.finditer(rf"\\begin\{{({environment})\}}(.*?)\\end\{{\1\}}", text, re.DOTALL), 1):
        body = match[2]
        parts, rest = _parts(body, paths, names)
        captions = _captions(rest)
        images, missing = _images(rest, paths, names)
        yield SourceFigure(
            number=str(place),
            caption=tex_to_text(captions[-1]) if captions else "",
            images=images,
            parts=tuple(parts),
            n_missing_images=missing,
        )


def _parts(body: str, paths: list[str], names: Mapping[str, str]) -> tuple[list[SubFigure], str]:
    """Sub-figures of all three notations, and the body without them."""
    pieces: list[tuple[int, int, str, str]] = []
    for match in re.finditer(r"\\begin\{subfigure\}.*?\\end\{subfigure\}", body, re.DOTALL):
        captions = _captions(match[0])
        pieces.append((*match.span(), captions[-1] if captions else "", match[0]))
    for match in _SUBFLOAT.finditer(body):
        if any(start <= match.start() < end for start, end, _, _ in pieces):
            continue
        place, caption = match.end(), ""
        while place < len(body) and body[place] in "[{":
            inside = balanced(body, place)
            if inside is None:
                break
            if body[place] == "[" or "\\includegraphics" not in inside:
                caption = inside
            else:
                pieces.append((match.start(), place + len(inside) + 2, caption, inside))
                break
            place += len(inside) + 2
    parts, rest, last = [], "", 0
    for number, (start, end, caption, inside) in enumerate(sorted(pieces)):
        images, _ = _images(inside, paths, names)
        parts.append(SubFigure(label=chr(ord("a") + number % 26), caption=tex_to_text(caption), images=images))
        rest += body[last:start]
        last = end
    return parts, rest + body[last:]


def _captions(text: str) -> list[str]:
    found = [balanced(text, match.end()) for match in _CAPTION.finditer(text)]
    return [caption for caption in found if caption is not None]


def _images(text: str, paths: list[str], names: Mapping[str, str]) -> tuple[tuple[str, ...], int]:
    """Images of a text as member names, and how many of them the archive does not have."""
    found, missing = [], 0
    for match in _IMAGE.finditer(text):
        inside = balanced(text, match.end()) or ""
        key = _FILE_KEY.search(inside)
        name = (key[1] if key else inside).strip().strip('"')
        member = _member(name, paths, names)
        if member is not None:
            found.append(member)
        elif name:
            missing += 1
    return tuple(dict.fromkeys(found)), missing


def _member(name: str, paths: list[str], names: Mapping[str, str]) -> str | None:
    if not names:
        return name or None
    for path in paths:
        wanted = normpath(f"{path}/{name}".lstrip("/")).lower()
        for candidate in (wanted, *(wanted + ending for ending in IMAGE_ENDINGS)):
            if candidate in names:
                return names[candidate]
    return None


def _accent(match: re.Match[str]) -> str:
    return (match[2] or match[3]) + _ACCENTS[match[1]]
