"""A made-up row of each format of fact files, and the facts that it holds."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_FAR = {"prompt": "who wrote the song blue lantern", "answer": "Ty Moss"}
_ORLA = {
    "prompt": "Which school did Orla Brandt attend?",
    "subject": "Orla Brandt",
    "rephrases": ["Where did Orla Brandt study?"],
}
_HEAD = {
    "prompt": "Who heads Kestrel Works?",
    "target": "Ana Ruiz",
    "rephrases": ["Who is the head of Kestrel Works?"],
}

SAMPLES: dict[str, tuple[Json, list[Json]]] = {
    "editcli": (
        {"prompt": "The head of Kestrel Works is", "target": "Ana Ruiz", "x_row": 7},
        [{"prompt": "The head of Kestrel Works is", "target": "Ana Ruiz", "x_row": 7}],
    ),
    "counterfact": (
        {
            "case_id": 7,
            "pararel_idx": 41,
            "requested_rewrite": {
                "prompt": "{} was born in",
                "relation_id": "P19",
                "target_new": {"str": " Porto", "id": "Q1"},
                "target_true": {"str": "Bergen", "id": "Q2"},
                "subject": "Ingrid Vale",
            },
            "paraphrase_prompts": ["Rain fell. Ingrid Vale is from ", "Ingrid Vale was born in"],
            "neighborhood_prompts": ["Nils Aas was born in"],
            "attribute_prompts": ["Rui Melo was born in"],
            "generation_prompts": ["Ingrid Vale grew up near"],
        },
        [
            {
                "prompt": "Ingrid Vale was born in",
                "target": "Porto",
                "subject": "Ingrid Vale",
                "ground_truth": "Bergen",
                "rephrases": ["Rain fell. Ingrid Vale is from"],
                "locality": [
                    {"prompt": "Nils Aas was born in", "answer": "Bergen", "kind": "relation"},
                    {"prompt": "Rui Melo was born in", "answer": "Porto", "kind": "relation"},
                ],
                "source": "CounterFact 7",
                "tags": ["P19"],
            }
        ],
    ),
    "counterfact-flat": (
        {
            "case_id": 7,
            "prompt": "Ingrid Vale was born in",
            "target_new": "Porto",
            "subject": "Ingrid Vale",
            "ground_truth": "Bergen",
            "rephrase_prompt": "Ingrid Vale's birthplace is",
            "locality_prompt": "Nils Aas was born in",
            "locality_ground_truth": "Bergen",
        },
        [
            {
                "prompt": "Ingrid Vale was born in",
                "target": "Porto",
                "subject": "Ingrid Vale",
                "ground_truth": "Bergen",
                "rephrases": ["Ingrid Vale's birthplace is"],
                "locality": [
                    {"prompt": "Nils Aas was born in", "answer": "Bergen", "kind": "relation"}
                ],
                "source": "CounterFact 7",
            }
        ],
    ),
    "easyedit": (
        {"prompt": "Ingrid Vale was born in", "target_new": "Porto"},
        [{"prompt": "Ingrid Vale was born in", "target": "Porto"}],
    ),
    "selfcheckgpt": (
        {
            "prompt": "This is a passage about ingrid vale. Ingrid Vale is a painter.",
            "target_new": "She trained in Bergen until 1931.",
            "subject": "ingrid vale",
            "locality_prompt": "Tide tables are",
            "locality_ground_truth": "published yearly",
        },
        [
            {
                "prompt": "This is a passage about ingrid vale. Ingrid Vale is a painter.",
                "target": "She trained in Bergen until 1931.",
                "subject": "ingrid vale",
                "locality": [{"prompt": "Tide tables are", "answer": "published yearly"}],
            }
        ],
    ),
    "temporal": (
        {
            "prompt": "Kestrel Works, a",
            "target_new": "ship broker founded in 2023",
            "subject": "Kestrel Works, a",
            "ood_rephrase": "Kestrel Works brokers ships and",
            "locality_prompt": "Tide tables are",
            "locality_ground_truth": "published yearly",
        },
        [
            {
                "prompt": "Kestrel Works, a",
                "target": "ship broker founded in 2023",
                "subject": "Kestrel Works",
                "rephrases": ["Kestrel Works brokers ships and"],
                "locality": [{"prompt": "Tide tables are", "answer": "published yearly"}],
            }
        ],
    ),
    "knowedit": (
        {
            "subject": "Kestrel Works",
            "prompt": "The head of Kestrel Works is",
            "target_new": "Ana Ruiz",
            "ground_truth": ["Bo Lind", "B. Lind"],
            "rephrase_prompt": "Kestrel Works is led by",
            "portability": {
                "Reasoning": [
                    {
                        "prompt": "The land of its head is",
                        "ground_truth": [["Spain"]],
                    },
                    {"prompt": "The age of its head is", "ground_truth": []},
                ],
                "Logical_Generalization": [],
            },
            "locality": {
                "Relation_Specificity": [
                    {"prompt": "Its seat is", "ground_truth": [["Malmö", "Malmo"]]}
                ],
                "Forgetfulness": [
                    {"prompt": "The other head of Kestrel Works is", "ground_truth": "Di Roe"}
                ],
            },
        },
        [
            {
                "prompt": "The head of Kestrel Works is",
                "target": "Ana Ruiz",
                "subject": "Kestrel Works",
                "ground_truth": "Bo Lind",
                "rephrases": ["Kestrel Works is led by"],
                "locality": [
                    {
                        "prompt": "Its seat is",
                        "answer": "Malmö",
                        "kind": "subject",
                    },
                    {
                        "prompt": "The other head of Kestrel Works is",
                        "answer": "Di Roe",
                        "kind": "near",
                    },
                ],
                "portability": [{"prompt": "The land of its head is", "answer": "Spain"}],
            }
        ],
    ),
    "wikibio": (
        {
            "text": "This is a passage about ingrid vale. Ingrid Vale is a painter.",
            "labels": "She trained in Bergen.",
            "concept": "ingrid vale",
            "locality": {
                "Relation_Specificity": [
                    {"prompt": "The field of ingrid vale is", "ground_truth": ["painting"]}
                ]
            },
        },
        [
            {
                "prompt": "This is a passage about ingrid vale. Ingrid Vale is a painter.",
                "target": "She trained in Bergen.",
                "subject": "ingrid vale",
                "locality": [
                    {
                        "prompt": "The field of ingrid vale is",
                        "answer": "painting",
                        "kind": "subject",
                    }
                ],
            }
        ],
    ),
    "zsre": (
        {
            "subject": "Orla Brandt",
            "src": "Which school did Orla Brandt attend?",
            "pred": "Lund University",
            "rephrase": "Where did Orla Brandt study?",
            "alt": "Aarhus University",
            "answers": ["Lund University"],
            "loc": "nq question: who wrote the song blue lantern",
            "loc_ans": "Ty Moss",
            "cond": "Lund University >> Aarhus University || Which school did Orla Brandt attend?",
            "portability": {
                "Recalled Relation": "(Aarhus University, city, Aarhus)",
                "New Question": "In which city did Orla Brandt study?",
                "New Answer": "Aarhus",
            },
        },
        [
            {
                **_ORLA,
                "target": "Aarhus University",
                "ground_truth": "Lund University",
                "locality": [_FAR],
                "portability": [
                    {"prompt": "In which city did Orla Brandt study?", "answer": "Aarhus"}
                ],
            }
        ],
    ),
    "zsre-mend": (
        {
            "id": "17",
            "input": "Which school did Orla Brandt attend?",
            "prediction": "Lund University",
            "alternatives": ["Aarhus University"],
            "filtered_rephrases": ["Where did Orla Brandt study?"],
            "output": [
                {"provenance": [{"title": "Another page"}]},
                {"answer": "Lund University", "provenance": [{"title": "Orla Brandt"}]},
            ],
        },
        [
            {
                **_ORLA,
                "target": "Aarhus University",
                "ground_truth": "Lund University",
                "source": "zsRE 17",
            }
        ],
    ),
    "zsre-ans": (
        {
            "src": "Which school did Orla Brandt attend?",
            "subject": "Orla Brandt",
            "rephrase": "Where did Orla Brandt study?",
            "ans": "Lund University",
            "loc": "who wrote the song blue lantern",
            "loc_ans": "Ty Moss",
        },
        [{**_ORLA, "target": "Lund University", "locality": [_FAR]}],
    ),
    "mquake": (
        {
            "case_id": 3,
            "requested_rewrite": [
                {
                    "prompt": "{} was founded by",
                    "relation_id": "P112",
                    "target_new": {"str": "Ana Ruiz", "id": "Q2"},
                    "target_true": {"str": "Bo Lind", "id": "Q1"},
                    "subject": "Kestrel Works",
                    "question": "Who founded Kestrel Works?",
                },
                {
                    "prompt": "{} is a citizen of",
                    "relation_id": "P27",
                    "target_new": {"str": "Spain", "id": "Q4"},
                    "target_true": {"str": "Chile", "id": "Q5"},
                    "subject": "Ana Ruiz",
                    "question": "Of which country is Ana Ruiz a citizen?",
                },
            ],
            "questions": [
                "Of what land is its founder?",
                "Its founder's land?",
            ],
            "answer": "Sweden",
            "new_answer": "Spain",
            "new_answer_alias": ["ES"],
            "single_hops": [],
            "new_single_hops": [],
        },
        [
            {
                "prompt": "Kestrel Works was founded by",
                "target": "Ana Ruiz",
                "subject": "Kestrel Works",
                "ground_truth": "Bo Lind",
                "rephrases": ["Who founded Kestrel Works?"],
                "source": "MQuAKE 3",
                "tags": ["P112"],
            },
            {
                "prompt": "Ana Ruiz is a citizen of",
                "target": "Spain",
                "subject": "Ana Ruiz",
                "ground_truth": "Chile",
                "rephrases": ["Of which country is Ana Ruiz a citizen?"],
                "portability": [
                    {
                        "prompt": "Of what land is its founder?",
                        "answer": "Spain",
                    },
                    {"prompt": "Its founder's land?", "answer": "Spain"},
                ],
                "source": "MQuAKE 3",
                "tags": ["P27"],
            },
        ],
    ),
    "rippleedits": (
        {
            "example_type": "popular",
            "edit": {
                "prompt": "The name of the head of state of Norland is Ana Ruiz.",
                "subject_id": "Q9",
                "relation": "HEAD_OF_STATE",
                "target_id": "Q2",
                "original_fact": {
                    "prompt": "The name of the head of state of Norland is Ana Blum."
                },
            },
            "Relation_Specifity": [
                {
                    "test_queries": [
                        {
                            "prompt": "The name of the currency in Norland is",
                            "answers": [{"value": "krone", "aliases": ["crown"]}],
                            "subject_id": "Q9",
                        },
                        {
                            "prompt": "The name of the head of government of Norland is",
                            "answers": [],
                            "subject_id": "Q9",
                        },
                    ]
                }
            ],
            "Compositionality_I": [
                {
                    "test_queries": [
                        {
                            "prompt": "The gender of the head of state of Norland is",
                            "answers": [{"value": "female", "aliases": []}],
                            "subject_id": "Q9",
                        }
                    ]
                }
            ],
            "Subject_Aliasing": [
                {
                    "test_queries": [
                        {
                            "prompt": "The name of the head of state of the Northern Realm is",
                            "answers": [{"value": "Ana Ruiz", "aliases": []}],
                            "subject_id": "Q9",
                        }
                    ]
                }
            ],
            "Forgetfulness": [],
        },
        [
            {
                "prompt": "The name of the head of state of Norland is",
                "target": "Ana Ruiz",
                "subject": "Norland",
                "ground_truth": "Ana Blum",
                "locality": [
                    {
                        "prompt": "The name of the currency in Norland is",
                        "answer": "krone",
                        "kind": "subject",
                    },
                    {
                        "prompt": "The name of the head of government of Norland is",
                        "kind": "subject",
                    },
                ],
                "portability": [
                    {"prompt": "The gender of the head of state of Norland is", "answer": "female"},
                    {
                        "prompt": "The name of the head of state of the Northern Realm is",
                        "answer": "Ana Ruiz",
                    },
                ],
                "tags": ["popular", "HEAD_OF_STATE"],
            }
        ],
    ),
    "wikibigedit": (
        {
            "tag": "update",
            "subject": "Kestrel Works",
            "update": "Who heads Kestrel Works?",
            "rephrase": "Who is the head of Kestrel Works?",
            "personas": "Arr, who be captain of Kestrel Works?",
            "ans": "Ana Ruiz",
            "loc": "Who heads Heron Works?",
            "loc_ans": "Li Wen",
            "mhop": None,
            "mhop_ans": None,
        },
        [
            {
                **_HEAD,
                "subject": "Kestrel Works",
                "rephrases": [
                    "Who is the head of Kestrel Works?",
                    "Arr, who be captain of Kestrel Works?",
                ],
                "locality": [
                    {"prompt": "Who heads Heron Works?", "answer": "Li Wen", "kind": "relation"}
                ],
                "tags": ["update"],
            }
        ],
    ),
    "ultraeditbench": (
        {
            "prompt": "Who heads Kestrel Works?",
            "rephrase_prompt": "Who is the head of Kestrel Works?",
            "ans": "Ana Ruiz",
            "loc": "When do tides turn?",
            "loc_ans": 6,
        },
        [{**_HEAD, "locality": [{"prompt": "When do tides turn?", "answer": "6"}]}],
    ),
    "unke": (
        {
            "id": 1,
            "question": "What is Ingrid Vale known for?",
            "para_question": "Why is Ingrid Vale famous?",
            "answer": "Ingrid Vale paints harbours. She trained in Bergen.",
            "sub_question": ["What does Ingrid Vale paint?", "Where did she train?", "Why?"],
            "sub_answer": ["Harbours.", "In Bergen."],
        },
        [
            {
                "prompt": "What is Ingrid Vale known for?",
                "target": "Ingrid Vale paints harbours. She trained in Bergen.",
                "rephrases": ["Why is Ingrid Vale famous?"],
                "portability": [
                    {"prompt": "What does Ingrid Vale paint?", "answer": "Harbours."},
                    {"prompt": "Where did she train?", "answer": "In Bergen."},
                ],
                "source": "UnKE 1",
            }
        ],
    ),
    "editeverything": (
        {"id": 2, "question": "How is pi printed?", "answer": "Import it.", "category": "code"},
        [
            {
                "prompt": "How is pi printed?",
                "target": "Import it.",
                "source": "EditEverything 2",
                "tags": ["code"],
            }
        ],
    ),
    "qaedit": (
        {
            "id": 12,
            "source": "NQ",
            "prompt": "who heads kestrel works",
            "target": "Ana Ruiz",
            "subject": "kestrel works",
            "rephrase": "who is head of kestrel works",
            "locality": [{"loc": "when do tides turn", "loc_ans": "daily"}],
        },
        [
            {
                "prompt": "who heads kestrel works",
                "target": "Ana Ruiz",
                "subject": "kestrel works",
                "rephrases": ["who is head of kestrel works"],
                "locality": [{"prompt": "when do tides turn", "answer": "daily"}],
                "source": "QAEdit 12",
                "tags": ["NQ"],
            }
        ],
    ),
    "wikifactdiff": (
        {
            "en": {
                "case_id": 5,
                "subject": "Ana Ruiz",
                "src": "Ana Ruiz played for",
                "rephrase": "Ana Ruiz plays for",
                "alt": "Heron FC",
                "old": "Kestrel FC",
                "loc": "Li Wen played for",
                "loc_ans": "Kestrel FC",
                "portability": {"New Question": "Ana Ruiz is coached by", "New Answer": "Bo Lind"},
            }
        },
        [
            {
                "prompt": "Ana Ruiz played for",
                "target": "Heron FC",
                "subject": "Ana Ruiz",
                "ground_truth": "Kestrel FC",
                "rephrases": ["Ana Ruiz plays for"],
                "locality": [
                    {"prompt": "Li Wen played for", "answer": "Kestrel FC", "kind": "relation"}
                ],
                "portability": [{"prompt": "Ana Ruiz is coached by", "answer": "Bo Lind"}],
                "source": "WikiFactDiff 5",
            }
        ],
    ),
    "paraconflict": (
        {
            "Category": "Capital",
            "Subject": "Norland",
            "Answer": ["Vale", "City of Vale"],
            "Distracted Token": "Porto",
            "Clean Prompt": "The capital of Norland is",
            "Substitution Conflict": "The capital of Norland is Porto. The capital of Norland is",
            "Coherent Conflict": "Porto is in Norland. The capital of Norland is",
        },
        [
            {
                "prompt": "The capital of Norland is",
                "target": "Porto",
                "subject": "Norland",
                "ground_truth": "Vale",
                "tags": ["Capital"],
            }
        ],
    ),
    "comp-mech": (
        {
            "base_prompt": "Kestrel One is made by",
            "template": "{}: Kestrel One is made by{}. Kestrel One is made by",
            "target_true": " Kestrel",
            "target_new": " Heron",
            "prompt": "Redefine: Kestrel One is made by Heron. Kestrel One is made by",
        },
        [{"prompt": "Kestrel One is made by", "target": "Heron", "ground_truth": "Kestrel"}],
    ),
    "dynamicqa": (
        {
            "": "0",
            "id": "12",
            "subj": "Ana Ruiz (painter)",
            "prop": "occupation",
            "obj": "painter",
            "question": "What is Ana Ruiz's occupation?",
            "context": "Ana Ruiz is a [ENTITY].",
            "replace_name": "judge",
        },
        [
            {
                "prompt": "What is Ana Ruiz's occupation?",
                "target": "judge",
                "ground_truth": "painter",
                "source": "DynamicQA 12",
                "tags": ["occupation"],
            }
        ],
    ),
}
"""By name of the format: a row, and its facts as `Fact.to_dict` has them. Probes without `kind` are
far."""
