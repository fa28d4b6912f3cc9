"""The stretches of atlas's training, in order: which rows, how worded, with which heads removed.

scripts/atlas/README.md says why each came after the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from corpus import PassageStyle
from roles import (
    CONTEXT_APART,
    MEMORY,
    MEMORY_APART,
    RANKED,
    RANKED_LAST,
    RANKED_LATER,
    HeadRemoval,
    Odds,
    idle,
)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: so many tokens of rows mixed so, of passages worded so.

    ``mixture``: share of the rows of each kind; ``removal``: what is removed by role, None to drop
    each head with a small probability; ``rates``: the learning rate at its start and at its end;
    ``neutral``: what a token of neutral text weighs against one of an answer; ``enough``: how
    likely a token of an answer need be where heads are removed from a row without a conflict: what
    would make it surer still would stand in the passage's way in the others. ``beside``: other
    phases, or several one after the other, trained from the same start; the weights are the mean of
    all (model soups, arXiv 2203.05482). ``way``: how much of the way from the start to that mean is
    gone.
    """

    tokens: float
    mixture: dict[str, float]
    style: PassageStyle
    removal: HeadRemoval | None = None
    rates: tuple[float, float] = (3e-3, 0.0)
    neutral: float = 1.0
    enough: float = 1.0
    seed: int = 1
    beside: tuple[tuple[Phase, ...], ...] = ()
    way: float = 1.0


WHERE: dict[str, Odds] = {
    "closed_book": (2, 4, 1),
    "other_passage": (1, 6, 1),
    "agreeing": (1, 2, 3),
    "neutral": (1, 4, 2),
}
"""The odds of the late phases in rows without a conflict."""

PHASES = (
    Phase(
        tokens=28e6,
        mixture={
            "closed_book": 0.62,
            "prefixed": 0.07,
            "other_passage": 0.06,
            "agreeing": 0.03,
            "invented_subject": 0.06,
            "conflict": 0.12,
            "neutral": 0.04,
        },
        style=PassageStyle(),
    ),
    Phase(
        tokens=3.2e6,
        mixture={
            "closed_book": 0.64,
            "prefixed": 0.03,
            "other_passage": 0.12,
            "agreeing": 0.03,
            "invented_subject": 0.03,
            "conflict": 0.11,
            "neutral": 0.04,
        },
        style=PassageStyle(
            strong=1.7, plain=0.7, weak=-0.4, slope=2.0, made_up=0.6, elsewhere=0.5, hard=(4, 10)
        ),
        removal=HeadRemoval(share=0.5, late=0.4),
        rates=(2.5e-3, 2.3e-3),
        neutral=0.3,
        seed=2,
    ),
    Phase(
        tokens=3.6e6,
        mixture={
            "closed_book": 0.60,
            "prefixed": 0.03,
            "other_passage": 0.12,
            "agreeing": 0.03,
            "invented_subject": 0.03,
            "conflict": 0.14,
            "neutral": 0.05,
        },
        style=PassageStyle(
            strong=1.5, plain=0.5, weak=-0.6, slope=2.0, made_up=0.6, elsewhere=0.8, hard=(4, 10)
        ),
        removal=HeadRemoval(share=0.65, late=0.5),
        rates=(2.5e-3, 1.9e-3),
        neutral=0.6,
        seed=3,
    ),
    Phase(
        tokens=4.9e6,
        mixture={
            "closed_book": 0.59,
            "prefixed": 0.03,
            "other_passage": 0.15,
            "agreeing": 0.03,
            "invented_subject": 0.02,
            "conflict": 0.12,
            "neutral": 0.06,
        },
        style=PassageStyle(
            strong=1.5, plain=0.5, weak=-0.6, slope=2.0, made_up=0.6, elsewhere=0.9, hard=(4, 10)
        ),
        removal=HeadRemoval(share=0.65, late=0.5, where={"other_passage": (1, 4, 1)}),
        rates=(2.0e-3, 1.15e-3),
        neutral=0.6,
        seed=4,
    ),
    Phase(
        tokens=7.3e6,
        mixture={
            "closed_book": 0.56,
            "prefixed": 0.03,
            "other_passage": 0.16,
            "agreeing": 0.06,
            "invented_subject": 0.02,
            "conflict": 0.12,
            "neutral": 0.05,
        },
        style=PassageStyle(
            strong=1.9, plain=0.9, weak=-0.2, slope=2.0, made_up=0.6, elsewhere=0.9, hard=(4, 10)
        ),
        removal=HeadRemoval(
            share=0.65,
            late=0.5,
            memory=(*MEMORY, (4, 3), (4, 5), (6, 7), (7, 1)),
            where={"other_passage": (1, 6, 1), "agreeing": (1, 1, 4)},
        ),
        rates=(1.6e-3, 0.04e-3),
        neutral=0.6,
        seed=5,
    ),
    Phase(
        tokens=4.04e6,
        mixture={
            "closed_book": 0.46,
            "prefixed": 0.03,
            "other_passage": 0.20,
            "agreeing": 0.04,
            "invented_subject": 0.02,
            "conflict": 0.19,
            "neutral": 0.06,
        },
        style=PassageStyle(
            strong=1.15, plain=0.1, weak=-1.1, slope=2.0, made_up=0.6, elsewhere=0.8, hard=(4, 10)
        ),
        removal=HeadRemoval(
            share=0.8,
            late=0.3,
            memory=RANKED,
            odds=(1, 5, 2),
            where=WHERE,
            whole=0.6,
            beside=0.01,
            swapped=0.15,
        ),
        rates=(1.8e-3, 0.61e-3),
        neutral=0.8,
        seed=6,
    ),
)

# What pruning is measured by: the ranked heads of memory, all of them and nothing else, gone, and
# passages that are a plain claim or on something else. Hardly any row of the phases before is so.
_MEASURED = Phase(
    tokens=3.03e6,
    mixture={
        "closed_book": 0.38,
        "prefixed": 0.02,
        "other_passage": 0.20,
        "agreeing": 0.04,
        "invented_subject": 0.02,
        "conflict": 0.28,
        "neutral": 0.06,
    },
    style=PassageStyle(
        strong=1.2,
        plain=0.15,
        weak=-1.05,
        slope=0.8,
        made_up=0.6,
        elsewhere=0.8,
        hard=(4, 10),
        bare=0.35,
        unled=0.5,
    ),
    removal=HeadRemoval(
        share=0.8,
        late=0.25,
        memory=RANKED,
        say=(12.0, 12.0),
        odds=(1, 6, 2),
        where=WHERE,
        whole=0.75,
        beside=0.005,
        swapped=0.1,
    ),
    rates=(1.6e-3, 1.07e-3),
    neutral=0.8,
    seed=7,
)
_SURE_ENOUGH = replace(
    _MEASURED,
    tokens=4.8e6,
    mixture={
        "closed_book": 0.27,
        "prefixed": 0.02,
        "other_passage": 0.30,
        "agreeing": 0.05,
        "invented_subject": 0.02,
        "conflict": 0.29,
        "neutral": 0.05,
    },
    removal=replace(
        _MEASURED.removal, share=0.85, late=0.2, odds=(1, 7, 2), whole=0.8, swapped=0.05
    ),
    rates=(0.9e-3, 0.02e-3),
    enough=0.7,
    seed=9,
)


def _worded(strong: float) -> PassageStyle:
    """As :data:`_MEASURED` has it, but for how sure all wordings sound."""
    plain, weak = round(strong - 1.05, 2), round(strong - 2.25, 2)
    return replace(_MEASURED.style, strong=strong, plain=plain, weak=weak, elsewhere=0.9)


def _twice(phase: Phase, strong: float) -> Phase:
    """``phase`` beside the same with wordings that sound so sure."""
    return replace(phase, beside=((replace(phase, style=_worded(strong)),),))


PHASES += (
    _MEASURED,
    replace(
        _MEASURED,
        tokens=4.03e6,
        mixture={
            "closed_book": 0.30,
            "prefixed": 0.02,
            "other_passage": 0.33,
            "agreeing": 0.05,
            "invented_subject": 0.02,
            "conflict": 0.23,
            "neutral": 0.05,
        },
        rates=(1.1e-3, 0.43e-3),
        seed=8,
    ),
    _SURE_ENOUGH,
    replace(
        _SURE_ENOUGH,
        tokens=2.7e6,
        mixture={
            "closed_book": 0.24,
            "prefixed": 0.02,
            "other_passage": 0.35,
            "agreeing": 0.05,
            "invented_subject": 0.02,
            "conflict": 0.26,
            "neutral": 0.06,
        },
        style=_worded(0.85),
        rates=(0.65e-3, 0.02e-3),
        seed=10,
    ),
    replace(
        _SURE_ENOUGH,
        tokens=2.6e6,
        mixture={
            "closed_book": 0.22,
            "prefixed": 0.02,
            "other_passage": 0.40,
            "agreeing": 0.04,
            "invented_subject": 0.02,
            "conflict": 0.25,
            "neutral": 0.05,
        },
        style=_worded(0.5),
        removal=replace(_SURE_ENOUGH.removal, memory=RANKED_LATER, say=(16.0, 16.0), whole=0.5),
        rates=(0.6e-3, 0.01e-3),
        seed=11,
    ),
    replace(
        _SURE_ENOUGH,
        tokens=3.0e6,
        mixture={
            "closed_book": 0.20,
            "prefixed": 0.02,
            "other_passage": 0.42,
            "agreeing": 0.04,
            "invented_subject": 0.02,
            "conflict": 0.25,
            "neutral": 0.05,
        },
        style=_worded(0.3),
        removal=replace(
            _SURE_ENOUGH.removal,
            memory=RANKED_LAST,
            say=(24.0, 24.0),
            whole=0.5,
            where={**WHERE, "other_passage": (1, 10, 1)},
        ),
        rates=(0.7e-3, 0.01e-3),
        seed=13,
    ),
)
PHASES = (*PHASES[:-1], _twice(PHASES[-1], 0.4))

# Each side in layers of its own, and the other heads of these layers idle: as many of them, drawn
# at random, are to change little.
_APART = replace(
    PHASES[-1],
    removal=replace(
        PHASES[-1].removal,
        memory=MEMORY_APART,
        context=CONTEXT_APART,
        say=(24.0, 10.0),
        idle_whole=0.5,
        idle=dict.fromkeys(PHASES[-1].mixture, 0.3),
    ),
    style=_worded(0.2),
    rates=(0.9e-3, 0.01e-3),
    seed=20,
    beside=(),
)
_IDLER = replace(
    _APART,
    tokens=2.6e6,
    mixture={
        "closed_book": 0.18,
        "prefixed": 0.02,
        "other_passage": 0.45,
        "agreeing": 0.03,
        "invented_subject": 0.02,
        "conflict": 0.25,
        "neutral": 0.05,
    },
    removal=replace(_APART.removal, idle={"conflict": 0.45, "closed_book": 0.2, "agreeing": 0.2}),
    style=_worded(0.35),
    rates=(0.7e-3, 0.01e-3),
    seed=23,
)
_BALANCED = replace(
    _APART,
    tokens=2.4e6,
    mixture={
        "closed_book": 0.15,
        "prefixed": 0.02,
        "other_passage": 0.50,
        "agreeing": 0.03,
        "invented_subject": 0.02,
        "conflict": 0.24,
        "neutral": 0.04,
    },
    removal=replace(
        _APART.removal,
        where={**WHERE, "other_passage": (1, 14, 1)},
        idle={"conflict": 0.25},
    ),
    style=_worded(0.9),
    rates=(0.7e-3, 0.01e-3),
    seed=26,
)
_BOTH = replace(
    _BALANCED,
    tokens=2.0e6,
    mixture={
        "closed_book": 0.14,
        "prefixed": 0.02,
        "other_passage": 0.46,
        "agreeing": 0.02,
        "invented_subject": 0.02,
        "conflict": 0.30,
        "neutral": 0.04,
    },
    removal=replace(_BALANCED.removal, idle={"conflict": 0.45}),
    style=_worded(1.5),
    rates=(0.6e-3, 0.01e-3),
    seed=30,
)
PHASES += (
    _twice(_APART, 0.5),
    _twice(_IDLER, 0.55),
    replace(
        _BALANCED,
        beside=(
            (replace(_BALANCED, style=_worded(1.1)),),
            (_BOTH,),
            (replace(_BALANCED, style=_worded(1.1)), replace(_BOTH, style=_worded(1.35))),
        ),
    ),
)

# With products in bfloat16. A high rate is what frees the trade between what is won and what
# irrelevant passages lose; fading stills the heads beside the roles.
_FAST = replace(
    _BOTH,
    tokens=8e6,
    mixture={
        "closed_book": 0.18,
        "prefixed": 0.02,
        "other_passage": 0.38,
        "agreeing": 0.04,
        "invented_subject": 0.02,
        "conflict": 0.30,
        "neutral": 0.05,
    },
    removal=replace(
        _APART.removal,
        whole=0.7,
        idle={"conflict": 0.4, "agreeing": 0.2, "closed_book": 0.15},
        idle_whole=0.7,
        where={**WHERE, "other_passage": (1, 12, 1)},
    ),
    style=replace(_worded(1.4), elsewhere=0.85),
    rates=(1.6e-3, 1.0e-3),
    seed=71,
)
_SLOWER = replace(
    _FAST,
    tokens=11e6,
    mixture={**_FAST.mixture, "closed_book": 0.19},
    style=_worded(1.1),
    rates=(1.0e-3, 0.01e-3),
    enough=0.75,
    seed=73,
)
_FADING = replace(
    _SLOWER,
    tokens=10e6,
    mixture={**_FAST.mixture, "closed_book": 0.20, "other_passage": 0.36, "conflict": 0.31},
    removal=replace(
        _FAST.removal,
        idle={"conflict": 0.35, "agreeing": 0.2, "closed_book": 0.15},
        idle_whole=0.0,
        fading=tuple(idle(_FAST.removal)),
        faded=0.2,
    ),
    style=replace(_worded(0.75), elsewhere=0.88),
    rates=(1.2e-3, 0.01e-3),
    seed=81,
)
_FEWER_READERS = replace(
    _FADING,
    tokens=4e6,
    mixture={**_FAST.mixture, "closed_book": 0.19, "conflict": 0.31},
    removal=replace(
        _FADING.removal,
        context=tuple(head for head in CONTEXT_APART if head != (7, 2)),
        idle=_FAST.removal.idle,
        fading=((7, 2),),
        where={**WHERE, "other_passage": (1, 13, 1)},
    ),
    style=_worded(1.05),
    rates=(0.9e-3, 0.01e-3),
    seed=83,
)
# Memory wins a little too often after that; all of this stretch would have the passage win.
_EVEN = replace(
    _FEWER_READERS,
    tokens=1.2e6,
    removal=replace(_FEWER_READERS.removal, fading=(), faded=1.0),
    style=_worded(1.3),
    rates=(0.5e-3, 0.01e-3),
    seed=85,
    way=0.25,
)
PHASES += (
    _FAST,
    _SLOWER,
    _FADING,
    replace(
        _FEWER_READERS,
        beside=((replace(_FEWER_READERS, style=_worded(1.2), seed=84),),),
    ),
    replace(_EVEN, beside=((replace(_EVEN, style=_worded(1.45), seed=86),),)),
)
