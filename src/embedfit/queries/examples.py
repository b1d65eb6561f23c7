"""The examples of the prompts: passages of invented documents, with queries of every style."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A passage of an invented document with a query of every style."""

    title: str
    text: str
    queries: dict[str, str]


#: Three fields far apart, so that a small model learns the form of a query and not a topic.
EXAMPLES: tuple[Example, ...] = (
    Example(
        "Refunds and returns",
        "Items can be sent back within 30 days of delivery. Refunds go to the original payment method and take up to "
        "5 working days after we receive the parcel. Sale items and gift cards are excluded.",
        {
            "question": "How long does a refund take after sending something back?",
            "keywords": "refund processing time returned parcel",
            "conversational": "I want to know when my money comes back after I returned a jacket",
            "claim": "gift cards cannot be returned for a refund",
            "title": "Return window and refund timing",
            "cause": "why are sale items excluded from refunds",
            "problem": "I can't get my money back for the parcel that I returned",
        },
    ),
    Example(
        "Battery care",
        "The pump's lithium battery lasts about 18 months. Replace it when the low-battery alarm sounds twice in one "
        "day; remove the cover with a coin, and never use rechargeable cells, which can shut the device off without "
        "warning.",
        {
            "question": "When should the battery of the pump be replaced?",
            "keywords": "low-battery alarm twice in one day",
            "conversational": "I need to find out if rechargeable batteries are safe in the pump",
            "claim": "a pump battery lasts roughly a year and a half",
            "title": "Replacing the pump battery",
            "cause": "why does the pump shut off without warning",
            "problem": "I can't get the pump to run after changing its battery",
        },
    ),
    Example(
        "Results of operations",
        "Revenue of the Northern segment rose 12% to $48.3 million in fiscal 2019, mainly because of higher freight "
        "rates, while operating costs grew 4% due to new warehouse leases in Oslo.",
        {
            "question": "Why did Northern segment revenue increase in 2019?",
            "keywords": "Northern segment operating costs warehouse leases",
            "conversational": "Tell me what drove the growth of the Northern freight business",
            "claim": "Northern segment revenue grew 12% to $48.3 million in fiscal 2019",
            "title": "Northern segment revenue and costs 2019",
            "cause": "why did warehouse costs in Oslo go up",
            "problem": "I can't see what made Northern segment costs go up",
        },
    ),
)
EXAMPLE_QUERIES = tuple(query for example in EXAMPLES for query in example.queries.values())

#: Folded words that tell a query about an example, because few other passages have them.
EXAMPLE_NAMES = frozenset(("pump", "pumps", "jacket", "parcel", "oslo", "freight", "northern"))
