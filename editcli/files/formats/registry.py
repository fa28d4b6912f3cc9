"""The registered formats of fact files: of this package, and of other packages."""

from __future__ import annotations

from editcli.files.formats.base import Format
from editors.plugins import Registry

_SETS = "editcli.files.formats.sets"

FORMATS: Registry[Format] = Registry(
    "format of fact files",
    "editcli.fact_formats",
    {
        "comp-mech": f"{_SETS}.conflict_sets:COMP_MECH",
        "counterfact": f"{_SETS}.counterfact:COUNTERFACT",
        "counterfact-flat": f"{_SETS}.easyedit:COUNTERFACT_FLAT",
        "dynamicqa": f"{_SETS}.conflict_sets:DYNAMIC_QA",
        "easyedit": f"{_SETS}.easyedit:EASYEDIT",
        "editcli": f"{_SETS}.own:OWN",
        "editeverything": f"{_SETS}.long_answers:EDIT_EVERYTHING",
        "knowedit": f"{_SETS}.knowedit:KNOWEDIT",
        "mquake": f"{_SETS}.mquake:MQUAKE",
        "paraconflict": f"{_SETS}.conflict_sets:PARA_CONFLICT",
        "qaedit": f"{_SETS}.qa_edit:QA_EDIT",
        "rippleedits": f"{_SETS}.ripple_edits:RIPPLE_EDITS",
        "selfcheckgpt": f"{_SETS}.easyedit:SELF_CHECK_GPT",
        "temporal": f"{_SETS}.easyedit:TEMPORAL",
        "ultraeditbench": f"{_SETS}.ultra_edit_bench:ULTRA_EDIT_BENCH",
        "unke": f"{_SETS}.long_answers:UNKE",
        "wikibigedit": f"{_SETS}.wiki_big_edit:WIKI_BIG_EDIT",
        "wikibio": f"{_SETS}.knowedit:WIKI_BIO",
        "wikifactdiff": f"{_SETS}.wiki_fact_diff:WIKI_FACT_DIFF",
        "zsre": f"{_SETS}.zsre:ZSRE",
        "zsre-ans": f"{_SETS}.zsre:ZSRE_ANS",
        "zsre-mend": f"{_SETS}.zsre:ZSRE_MEND",
    },
)
