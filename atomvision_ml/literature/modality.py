"""What kind of picture a panel is, from words alone; and whether a figure or a paper is about such pictures.

Belongs here: the words of each modality, the context that decides of words such as "topography" and "image", and the
guards against namesakes: STEM education and stem cells, STM for short-term memory, SEM for a standard error, TEM00
modes, AFM for antiferromagnetic. The words are in ``modalities.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from atomvision_ml.literature.captions import CaptionParts, PanelText
from atomvision_ml.literature.panel_labels import references
from atomvision_ml.literature.word_finder import WordFinder
from atomvision_ml.schemas.vocabulary import Modality

MICROSCOPY: tuple[Modality, ...] = ("STM", "STEM", "HRTEM", "TEM")
"""What the corpus is about."""

IMAGES: tuple[Modality, ...] = (*MICROSCOPY, "SEM", "AFM", "other")
"""What an unnamed image can be."""

_OPEN = ("probe", "field", "fine", "electron", "simulation", "image", "motif", "trend", "object")
_INSET = re.compile(
    r"\([^()]*\b[Ii]nsets?\b[^()]*\)|\b[Ii]nsets?\b[^.;]*(?:[.;]|$)|\b(?:upper|lower) (?:left|right|corner)\b[^.;]*"
)
_DULL_WORDS = (
    r"\d+(?![dDθ2])|of|the|and|in|at|to|with|for|is|are|by|on|an|from|nm|a|after|which|were|was|that|this|its|their|into|"
    "between|under|grown|taken|shown|showing|white|black|arrows?|islands?|films?|particles?|nanowires?|respectively|"
    "min|[VKT]|pA|nA|mV|meV|kV"
)
_DULL = (*(rf"(?:{word})\b(?![(-])" for word in _DULL_WORDS.split("|")), r"[A-Z][a-z]?\d", r"[A-Z][a-z]\(")
"""What begins no word of a modality."""
_COMPOUND = re.compile(r"[ -](?:(?!of|and|with|from|in|on|at|by|or|the|for)[a-z]+ )?")
_CAPITALISED = re.compile(r"\b[A-Z](?=[a-z]{2})")
_ACRONYM = re.compile(r"\b(?:STE?M|[TS]EM|AFM)\b")
_WORD = re.compile(r"[^\W\d_]+")
_HINTS = {
    "STM": re.compile(r"\d\s?[pn]A\b|\b[Bb]ias\b|\b[Tt]unnel+ing\b"),
    "STEM": re.compile(r"\bEELS\b|\batomic columns?\b"),
    "TEM": re.compile(
        r"\b(?:(?:60|80|100|120|200|300|400) k(?:e)?V|1(?:\.\d+)? MV|SAEDP?|SADP?|[Zz]one axis|[Ff]oils?|"
        r"g ?= ?\d+|[Ll]amellae?|[Tt]wo-beam)\b"
    ),
}
"""What gives a microscope away that is not named."""
_DERIVED = ("extracted", "deduced", "determined", "estimated", "evaluated", "obtained")
_AGAINST = ("as ", "versus", "vs", "against")
_QUANTITIES = (
    "distances?|angles?|ratios?|fractions?|velocit(?:y|ies)|mobilit(?:y|ies)|moments?|coefficients?|frequenc(?:y|ies)|"
    "probabilit(?:y|ies)|occupanc(?:y|ies)|efficienc(?:y|ies)|rates?|energ(?:y|ies)|yields?|entropy|enthalp(?:y|ies)|"
    "modul(?:us|i)|hardness|stress(?:es)?|torques?|noise|gains?|exponents?|radi(?:us|i)|diameters?|periods?|"
    "wavelengths?|capacit(?:y|ies)|factors?|parameters?|constants?|numbers?|counts?|errors?|accuracy|scores?|shares?|"
    "percentages?|lifetimes?|linewidths?|fwhm|splittings?|shifts?|offsets?|thresholds?|asymmetry|correlations?|lengths?|"
    "widths?|sizes|spacings?|roughness|densit(?:y|ies)|concentrations?|positions|values|widening|broadening|speeds?|"
    "compositions?|contents?|misfits?|(?:hetero)?strain|"
    "(?:mean|absolute|relative|residual|percentage|standard) (?:differences?|deviations?|errors?)|"
    "coverages?|volumes?|(?:particle|grain|domain|void|pore|cluster|island) size|"
    "(?:projected|mean|total|contact|grain|particle|island) areas?|"
    "(?:critical|coercive|switching|anisotropy|exchange[- ]bias|internal|depinning|saturation|breakdown) fields?"
)
_SHORTEST_QUANTITY = 4
_LONGEST_MAPPED = 90
_MAPPED_END = (
    r"(?=$|[.,;:(/]| (?:in|of|at|under|before|after|from|by|with|without|and|for|recorded|measured|taken|map|image|"
    r"signal|contrast|channel|component|asymmetry)\b)"
)
_MODIFIERS = (
    r"(?:(?:the|a|simultaneous|simultaneously|recorded|reconstructed|measured|local|retrieved|extracted|derived|"
    r"corresponding|same|sublattice|in-plane|out-of-plane|projected|relative|normalised|normalized) )*"
)
_STOP = (
    "of|in|on|at|for|from|with|versus|vs|as|by|between|along|across|against|per|during|after|before|under|to|and|over"
)
_QUANTITY = re.compile(
    r"(?!\d)(?:(?:is|shows|gives|the|an?|measured|calculated|extracted|average|mean) )*"
    r"(?!(?:low|high|larg|small|same|differ|other|long|short|equal|zero|full|half|increas|decreas|wid|narrow)\w* )"
    rf"(?:(?!(?:{_STOP}|maps?|images?)\b)[\w/'’–-]+ ){{0,4}}?(?:{_QUANTITIES})(?: [a-z][\w–-]*)?"
    rf"(?= (?:{_STOP}|is|are|was|were|obtained|determined|extracted|measured|deduced|derived)\b|[,.;]|$"
    r"| ?\((?!colou?r))"
    r"(?!,? ?(?:is |=|:)? ?(?:about )?[~≈<>±]?\d)"
    r"(?! of (?:about )?[~≈<>±]?\d[\d.,]* ?(?:[kmµμnp]?m|å|k|°|%|[mk]?e?v|ml|m?t|[pn]?a|h|min|m?s)(?!\w))"
)
"""Of a text in lower case."""
_IS_QUANTITY = re.compile(rf"(?:.*[ -])?(?:{_QUANTITIES})")
_VALUE = re.compile(r",? ?(?:of |is |was |=|:)? ?(?:about |ca\. ?)?[~≈<>±−-]?\d")
_CONDITION = re.compile(
    r"[^\w(]*(?:\d|[+±−~<>=|√]|[A-Za-zΔθφ_]{1,3} ?[=≈<>~]|(?:at|after|before|under|with|without|for|along|of|in|on|and|"
    r"from|by|to|same|as|during|near|between|while|both|another|second|third|other)\b)",
    re.IGNORECASE,
)
"""A panel that only says in what it differs from the one before."""
_PRONOUN = re.compile(r"(?:their|its|the corresponding|corresponding)\b", re.IGNORECASE)
_OVERLAID = re.compile(r"\b(?:overlaid|superimposed|superposed)\b")
_ELEMENT = re.compile(r"\b([A-Z][a-z]?)(?:[- ][KLM][\dα]*)?\b")
_MAPPING = re.compile(
    r"\b(?:maps?|mapping|EDX?S?|EDX|EELS|SIMS|XRF|EPMA|element\w*|composition\w*|overlay|distributions?)\b"
)
_CURVE = re.compile(
    r"\b(?:along|across|through|versus|vs|against|profiles?|spectr\w+|curves?|histograms?|distributions?|averages?|averaged|mean|"
    r"loops?|as a function|dependence|traces?|points?|values?|plot\w*|cuts?|linescans?|ratios?)\b",
    re.IGNORECASE,
)
_STATES = re.compile(
    r"\d\s?m?e?V\b|\b(?:bias|energ\w+|gaps?|conductance|states?|peaks?|resonances?|current|intensity)\b"
)


@dataclass(frozen=True)
class PanelModality:
    """What a panel is said to be; the confidence, 0 to 1, orders the rules and is not calibrated."""

    label: str
    modality: Modality
    confidence: float


_Answer = tuple[str, float]
"""Modality and confidence."""


class _Hit(NamedTuple):
    """A word of a modality, or one whose modality is open."""

    start: int
    end: int
    kind: str
    word: str


def without_namesakes(text: str) -> str:
    """The text without words that only look like a modality."""
    vocabulary = _vocabulary()
    if not vocabulary.suspicious.search(text):
        return text
    pieces, last = [], 0
    for start, end, _ in vocabulary.namesakes.find(text):
        pieces.append(text[last:start])
        last = end
    return " ".join((*pieces, text[last:])) if pieces else text


def modalities(text: str) -> list[Modality]:
    """The modalities that a text names, in the order in which they are named first."""
    return list(dict.fromkeys(hit.kind for hit in _hits(text) if hit.kind not in _OPEN))  # type: ignore[misc]


def panel_modalities(parts: CaptionParts) -> list[PanelModality]:
    """The modality of each panel: of its own words, else of what is said of all or of the panel that it refers to.

    Args:
        parts: the caption, divided.
    """
    parts = _in_one_sense(parts)
    preamble = _hits(parts.preamble)
    own = {panel.text: _hits(_without_insets(panel.text)) for panel in parts.panels}
    named = [hit.kind for hits in own.values() for hit in hits if hit.kind not in _OPEN]
    labels = [panel.label for panel in parts.panels]
    found: dict[str, PanelModality] = {}
    for panel in parts.panels:
        hits = own[panel.text]
        is_named = bool(hits) and hits[0].kind not in _OPEN
        shared = [] if is_named else _hits(panel.shared)
        context = _Context(panel, own[panel.text], (*shared, *preamble), found, labels, named, parts)
        found[panel.label] = _panel_modality(context, shared, preamble)
    return list(found.values())


def techniques(text: str) -> list[Modality]:
    """STM, STEM, HRTEM and TEM where a title or an abstract names them, and not a namesake, in their order."""
    clean = _CAPITALISED.sub(_lower, without_namesakes(text))
    found = (MICROSCOPY[(match.lastindex or 1) - 1] for match in _vocabulary().techniques.finditer(clean))
    return list(dict.fromkeys(found))


def is_relevant(text: str) -> bool:
    """Whether a title or an abstract names STM, STEM, HRTEM or TEM, and not a namesake."""
    return bool(techniques(text))


def is_biological(text: str) -> bool:
    """Whether a caption speaks of viruses, proteins and the like: no material."""
    return next(_vocabulary().biology.find(_CAPITALISED.sub(_lower, text)), None) is not None


def is_relevant_figure(parts: CaptionParts, panels: Sequence[PanelModality]) -> bool:
    """Whether a figure has at least one STM, STEM, HRTEM or TEM image of a material.

    Args:
        parts: the caption, divided.
        panels: the modalities of its panels.
    """
    if not any(panel.modality in MICROSCOPY for panel in panels):
        return False
    return not is_biological(" ".join((parts.preamble, *(panel.text for panel in parts.panels))))


def _in_one_sense(parts: CaptionParts) -> CaptionParts:
    """The caption without acronyms that mean something else in it: SEM in "mean and SEM", AFM among magnets."""
    texts = dict.fromkeys([parts.preamble, *(each for panel in parts.panels for each in (panel.text, panel.remarks))])
    text = " ".join(texts)
    if "image" in text or "micrograph" in text or not (acronyms := _ACRONYM.findall(text)):
        return parts
    words, senses = set(_WORD.findall(text.lower())), _vocabulary().senses
    others = {each for each in acronyms if words & senses[each]["other"] and not words & senses[each]["genuine"]}
    if not others:
        return parts
    pattern = re.compile(rf"\b(?:{'|'.join(sorted(others))})\b")
    panels = [
        replace(
            panel,
            text=pattern.sub("", panel.text),
            shared=pattern.sub("", panel.shared),
            remarks=pattern.sub("", panel.remarks),
        )
        for panel in parts.panels
    ]
    return CaptionParts(preamble=pattern.sub("", parts.preamble), panels=tuple(panels))


def _panel_modality(context: _Context, shared: Sequence[_Hit], preamble: Sequence[_Hit]) -> PanelModality:
    name, confidence = (
        _own_answer(context) or _shared_answer(context, shared, preamble) or _carried_answer(context, preamble)
    )
    return PanelModality(label=context.panel.label, modality=name, confidence=confidence)  # type: ignore[arg-type]


def _own_answer(context: _Context) -> _Answer | None:
    """What the panel's own words say."""
    own, text = context.own, context.panel.text
    if name := _mapped(context):
        return name, 0.7
    if _is_relation(own) or _begins_with_quantity(text, own):
        return "plot", 0.8
    if not own:
        return None
    if own[0].kind in _OPEN:
        name = _in_context(own[0].kind, own[0].word, context)
        return (name, 0.8) if name else None
    if name := _overlaid(context):
        return name, 0.7
    is_alone = len({hit.kind for hit in own if hit.kind not in _OPEN}) == 1
    return own[0].kind, 0.95 if is_alone else 0.85


def _shared_answer(context: _Context, shared: Sequence[_Hit], preamble: Sequence[_Hit]) -> _Answer | None:
    """What its sentence, or else the preamble, says of several panels."""
    if name := _first_of_all(shared):
        return name, 0.8
    name = _first_of_all(preamble)
    if name == "plot" and _CONDITION.match(context.panel.text):
        found = list(context.found.values())
        name = found[-1].modality if found else next((each for each in context.named if each in IMAGES), name)
    return (name, 0.8) if name else None


def _carried_answer(context: _Context, preamble: Sequence[_Hit]) -> _Answer:
    """What the panels before it, open words of the preamble or remarks let expect."""
    found = list(context.found.values())
    is_open = _first_open(preamble)
    images = [each.modality for each in found if each.modality in IMAGES]
    if images and is_open:
        return images[-1], 0.6
    if not is_open and not context.own and any(hit.kind == "image" for hit in preamble):
        is_open = context.image()
    if is_open:
        return is_open, 0.6
    if _is_element(context):
        return "other", 0.6
    if found and (found[-1].modality in IMAGES or _CONDITION.match(context.panel.text)):
        return found[-1].modality, 0.6
    remarks = _hits(context.panel.remarks)
    return _first_of_all(remarks) or _first_open(remarks) or _silent(context, preamble), 0.5


def _mapped(context: _Context) -> str | None:
    """The modality of a bare quantity that the microscope of the preamble maps: the friction of a force microscope."""
    text, preamble = context.panel.text, context.parts.preamble
    if not preamble or len(text) > _LONGEST_MAPPED:
        return None
    lower, mapped = _CAPITALISED.sub(_lower, text), _vocabulary().mapped
    name = next((name for within, name, words in mapped if words.match(lower) and within.search(preamble)), None)
    return name if name and not _CURVE.search(text) else None


def _is_element(context: _Context) -> bool:
    """Whether a panel is named by elements alone in a figure with element maps."""
    names = _ELEMENT.findall(context.panel.text)
    if not names or _ELEMENT.sub("", context.panel.text).strip(" ,/and") or not set(names) <= _elements():
        return False
    return any(
        _MAPPING.search(text) for text in (context.parts.preamble, *(each.text for each in context.parts.panels))
    )


@cache
def _elements() -> frozenset[str]:
    from ase.data import chemical_symbols

    return frozenset(chemical_symbols[1:])


def _overlaid(context: _Context) -> str | None:
    """The image before, where a model or a map lies on it: "atomic model overlaid"."""
    before = next((each.modality for each in reversed(context.found.values())), None)
    is_upper = context.own[0].kind in ("schematic", "other") and _OVERLAID.search(context.panel.text)
    return before if is_upper and before in MICROSCOPY else None


def _silent(context: _Context, preamble: Sequence[_Hit]) -> str:
    """What a panel is of which nothing is said: an image by its conditions, or of a list of images; else a plot."""
    if any(hit.kind == "image" for hit in preamble) and (name := context.hinted()):
        return name
    for name in ("STM", "TEM"):
        if any(_HINTS[name].search(text) for text in (context.panel.text, context.panel.remarks)):
            return name
    later = context.parts.panels[context.labels.index(context.panel.label) + 1 :]
    hits = next((hits for panel in later if (hits := _hits(panel.text))), [])
    if hits and hits[0].kind in MICROSCOPY and any(hit.word.endswith(("images", "micrographs")) for hit in hits):
        return hits[0].kind
    return "plot"


def _begins_with_quantity(text: str, own: Sequence[_Hit]) -> bool:
    """Whether the first noun of a panel is a quantity, before any word of a modality: "bond angle from the images"."""
    is_named = bool(own) and own[0].kind not in _OPEN
    if is_named and own[0].start < _SHORTEST_QUANTITY:
        return False
    match = _QUANTITY.match(text.lower())
    return match is not None and (not is_named or match.end() <= own[0].start)


def _is_relation(own: Sequence[_Hit]) -> bool:
    """Whether a panel that names a microscope shows no image of it: "TEM particle size against time"."""
    if not own or own[0].kind not in (*MICROSCOPY, "SEM", "AFM"):
        return False
    is_image = any(hit.kind in ("image", "motif", "probe", "simulation") or "map" in hit.word for hit in own)
    return not is_image and any(hit.kind == "trend" and hit.word.startswith(_AGAINST) for hit in own)


class _Context(NamedTuple):
    """What stands around a word."""

    panel: PanelText
    own: Sequence[_Hit]
    around: Sequence[_Hit]
    found: dict[str, PanelModality]
    labels: Sequence[str]
    named: Sequence[str]
    """The modalities that the panels of the figure name, later ones too."""
    parts: CaptionParts

    def first(self, kinds: Sequence[str]) -> str | None:
        """The first of some modalities in the panel's own words, else around them, else in the panels before."""
        known = [each.kind for each in (*self.own, *self.around)]
        known += [each.modality for each in reversed(self.found.values())]
        known += self.named
        return next((kind for kind in known if kind in kinds), None)

    def hinted(self) -> str | None:
        """The kind of microscope that the conditions or the methods of the figure give away."""
        text = " ".join((self.parts.preamble, *(f"{each.text} {each.remarks}" for each in self.parts.panels)))
        return next((name for name, hint in _HINTS.items() if hint.search(text)), None)

    def image(self) -> str | None:
        """The kind of an image that is not named: that of the panel referred to, else of the words around."""
        closed = next((each.kind for each in self.own if each.kind in IMAGES), None)
        if closed:
            return closed
        later = next((each for each in self.own if each.kind in ("probe", "field", "fine", "electron")), None)
        if later:
            return _in_context(later.kind, later.word, self)
        return (
            _referred(self.panel, self.found, self.labels)
            or next((each.kind for each in self.around if each.kind in IMAGES), None)
            or _first_open(self.around)
            or next((each.modality for each in reversed(self.found.values()) if each.modality in IMAGES), None)
            or next((each.kind for each in _hits(self.panel.remarks) if each.kind in IMAGES), None)
            or next((kind for kind in self.named if kind in IMAGES), None)
        )


def _without_insets(text: str) -> str:
    return _INSET.sub(" ", text) if "nset" in text or "upper " in text or "lower " in text else text


def _in_context(kind: str, word: str, context: _Context) -> str | None:
    """What a word means whose modality is open."""
    return _motif(word, context) if kind == "motif" else _READERS[kind](context)


def _probe(context: _Context) -> str:
    return (
        context.first(("STM", "AFM"))
        or _referred(context.panel, context.found, context.labels)
        or next((each.kind for each in (*context.own, *context.around) if each.kind in IMAGES), None)
        or "STM"
    )


def _field(context: _Context) -> str:
    electron = context.first(("STEM", "TEM", "HRTEM", "other"))
    return electron if electron in ("STEM", "other") else "TEM"


def _fine(context: _Context) -> str:
    referred = _referred(context.panel, context.found, context.labels)
    micro = referred or context.first(("STM", "STEM", "HRTEM", "TEM", "SEM", "AFM"))
    return "HRTEM" if micro is None or micro == "TEM" else micro


def _electron(context: _Context) -> str:
    return context.first(("SEM", "STEM", "HRTEM", "TEM")) or "TEM"


def _image(context: _Context) -> str:
    before = next((each.modality for each in reversed(context.found.values())), None)
    if before in IMAGES and _PRONOUN.match(context.panel.text):
        return before
    return context.image() or _first_closed(context.own) or context.hinted() or "other"


def _simulation(context: _Context) -> str:
    has_image = any(each.kind == "image" for each in context.own)
    before = next((each.modality for each in reversed(context.found.values()) if each.modality in MICROSCOPY), None)
    own = None if has_image else _first_closed(context.own)
    return own or _referred(context.panel, context.found, context.labels) or before or context.image() or "plot"


def _object(context: _Context) -> str:
    return next((each.kind for each in context.around if each.kind in IMAGES), None) or "schematic"


def _trend(context: _Context) -> str:
    closed = _first_closed(context.own)
    return closed if closed in IMAGES and context.panel.label == "" else "plot"


_READERS: dict[str, Callable[[_Context], str]] = {
    "probe": _probe,
    "field": _field,
    "fine": _fine,
    "electron": _electron,
    "image": _image,
    "simulation": _simulation,
    "trend": _trend,
    "object": _object,
}


def _motif(word: str, context: _Context) -> str | None:
    """A calculation of an image is one, a view of a micrograph too; else what the word itself says."""
    closed = _first_closed(context.own)
    if word.startswith(("calc", "comp", "tight")):
        is_image = any(each.kind == "image" for each in context.own)
        if is_image or _referred(context.panel, context.found, context.labels):
            return context.image()
        return closed or "plot"
    around = next((each.kind for each in context.around if each.kind in IMAGES), None)
    if around and word.startswith(("side", "top", "persp")):
        return around
    if around == "STM" and word.startswith("map") and _STATES.search(context.panel.text):
        return around
    readings = _vocabulary().readings.items()
    return closed or next((reading for begin, reading in readings if word.lower().startswith(begin)), None)


def _referred(panel: PanelText, found: dict[str, PanelModality], labels: Sequence[str]) -> str | None:
    """The modality of the image that the words of a panel refer to."""
    for _, group in references(panel.text, labels):
        for label in group:
            if label != panel.label and label in found and found[label].modality in IMAGES:
                return found[label].modality
    return None


def _first_closed(hits: Sequence[_Hit]) -> str | None:
    return next((hit.kind for hit in hits if hit.kind not in _OPEN), None)


def _first_of_all(hits: Sequence[_Hit]) -> str | None:
    """What a text says of all panels: of a trend in images it is the images."""
    if hits and hits[0].kind == "trend":
        return next((hit.kind for hit in hits if hit.kind in IMAGES), None) or "plot"
    return _first_closed(hits)


def _first_open(hits: Sequence[_Hit]) -> str | None:
    """What the first open word means where nothing else is said."""
    meanings = {"probe": "STM", "field": "TEM", "fine": "HRTEM", "electron": "TEM"}
    return next((meanings[hit.kind] for hit in hits if hit.kind in meanings), None)


@lru_cache(maxsize=64)
def _hits(text: str) -> list[_Hit]:
    """The words of modalities in a text, in its order; what lies within a longer one is left out."""
    if not text:
        return []
    clean = _CAPITALISED.sub(_lower, without_namesakes(text)).lstrip()
    vocabulary = _vocabulary()
    hits: list[_Hit] = []
    for start, end, kind in vocabulary.words.find(clean):
        hit = _Hit(start, end, kind, clean[start:end])
        if kind == "plot" and _VALUE.match(clean, end) and _IS_QUANTITY.fullmatch(hit.word):
            continue
        if hits and _is_head(hits[-1], hit, clean):
            hits.pop()
        hits.append(hit)
    return hits


def _is_head(before: _Hit, hit: _Hit, text: str) -> bool:
    """Whether a word is the head of a compound that the one before only describes: "TEM diffraction pattern"."""
    if not _COMPOUND.fullmatch(text, before.end, hit.start):
        return False
    if hit.word.startswith(_DERIVED):
        return False
    return before.kind not in _OPEN and hit.kind in ("diffraction", "plot", "other", "schematic")


def _lower(match: re.Match[str]) -> str:
    return match[0].lower()


@dataclass(frozen=True)
class _Vocabulary:
    """The words, compiled."""

    words: WordFinder
    techniques: re.Pattern[str]
    namesakes: WordFinder
    suspicious: re.Pattern[str]
    biology: WordFinder
    readings: dict[str, str]
    mapped: list[tuple[re.Pattern[str], str, re.Pattern[str]]]
    senses: dict[str, dict[str, frozenset[str]]]


@cache
def _vocabulary() -> _Vocabulary:
    import yaml

    words: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "modalities.yaml").read_text(encoding="utf-8"))
    named = "|".join(f"({'|'.join(words['techniques'][name])})" for name in MICROSCOPY)
    return _Vocabulary(
        words=WordFinder([(each["is"], each["words"]) for each in words["modalities"]], unless=_DULL),
        techniques=re.compile(rf"(?<!\w)(?:{named})(?!\w)"),
        namesakes=WordFinder([("namesake", words["namesakes"])]),
        suspicious=re.compile(
            r"[Ss]tem|STEM|S[TE]M|TEM|AFM|s\.e\.m|[Mm]emory|[Aa]ntiferro|TEM|Hermite|lectromag|[Ss]tandard"
        ),
        biology=WordFinder([("biology", words["biology"])]),
        readings=words["readings"],
        mapped=[
            (
                re.compile("|".join(each["within"])),
                each["is"],
                re.compile(rf"{_MODIFIERS}(?:{'|'.join(each['words'])}){_MAPPED_END}"),
            )
            for each in words["mapped"]
        ],
        senses={
            acronym: {name: frozenset(group) for name, group in sense.items()}
            for acronym, sense in words["senses"].items()
        },
    )
