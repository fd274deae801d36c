"""What the demo's data is made of: tables of templates and nothing else.

`make_data` draws pictures, numbers and names for them. What is hard for the
demo is here because it is a fair question.
"""

from __future__ import annotations

from dataclasses import dataclass

# `<20..60>` stands for a number; the numbers of a text are called a, b, c and d. Below
# the text stands the working, an operation a step; `_` is the result of the step before.
STORIES = """
{A} has <20..60> {things}. {A} gives <3..15> to {B} and finds <3..15> more on the way home.
How many {things} does {A} have now?
= a - b, _ + c

A baker fills <4..9> trays with <8..15> rolls each. By noon the baker has sold <10..30> of the
rolls. How many rolls are left?
= a * b, _ - c

{A} picks <10..40> plums and {B} picks <10..40> plums. They share all the plums equally among
<3..8> friends. How many plums does each friend get?
= a + b, _ / c

A pen costs <2..9> dollars. {A} buys <3..9> pens and pays with a 100 dollar note.
How much change does {A} get?
= a * b, 100 - _

{A} has <6..25> {things}. {B} has <3..6> times as many {things} as {A}.
How many {things} do they have altogether?
= a * b, a + _

A printer prints <12..40> pages per minute. How many pages does it print in <5..20> minutes?
= a * b

A farm has <8..20> hens. Each hen lays <3..6> eggs. The farmer drops <3..9> of the eggs.
How many eggs are not broken?
= a * b, _ - c

{A} has <10..40> {things}. {B} has <4..20> more than {A}, and {C} has half as many {things} as
{B}. How many {things} does {C} have?
= a + b, _ / 2

A machine fills <10..30> bottles per minute. How many bottles does it fill in <2..5> hours?
= b * 60, a * _

{A} gave <5..15> {things} to {B} and <5..15> to {C}. Now {A} has <16..30> left.
How many {things} did {A} have at first?
= a + b, _ + c

<30..90> children go on a trip. Each bus seats <8..14> children. How many buses are needed?
= a / b

{A} is <8..11> years old. {A} has <20..40> {things} and buys <12..19> more.
How many {things} does {A} have now?
= b + c
"""

# Here a unit follows the working; or the options stand in its place, the right one first.
SCIENCE = """
A train travels <90..400> km in <2..6> hours. What is its average speed?
= a / b; km per hour

<5..25> g of salt are stirred into <100..300> g of water until the salt has dissolved.
What is the mass of the solution?
= a + b; g

Two teams pull on a rope in opposite directions, one with <200..600> N and the other with
<50..180> N. What is the net force on the rope?
= a - b; N

A force of <20..60> N moves a crate <3..12> metres along the floor. How much work is done?
= a * b; joules

A bean plant grows <2..8> cm each week. How much does it grow in <9..12> weeks?
= a * b; cm

Each spider has 8 legs. How many legs do <9..15> spiders have?
= 8 * a; legs

A class measures the same stem three times and reads <20..40> mm, <20..40> mm and <20..40> mm.
What is the mean of the readings?
= a + b, _ + c, _ / 3; mm

Metal rods bend by these amounts: iron <12..50> mm, copper <60..94> mm, tin <12..50> mm and
zinc <12..50> mm. Which one bends the most?
= copper / iron / tin / zinc

The masses are: brick <2..5> kg, book <600..950> g, cup <200..400> g and spoon <20..60> g.
Which of these things is the heaviest?
= brick / book / cup / spoon

At noon Oslo has <-9..-3> °C, Rome <10..19> °C, Lima <20..25> °C and Tromsø <-28..-20> °C.
Which city is the coldest?
= Tromsø / Oslo / Rome / Lima

Which gas do green plants take in from the air to make sugar?
= carbon dioxide / oxygen / nitrogen / helium

What causes day and night on Earth?
= the turning of Earth / the phases of the moon / the tides / the clouds
"""


@dataclass(frozen=True)
class Scene:
    """A picture of shapes and a question, which is about the first of them."""

    category: str
    asks: str  # for its colour, kind or place; or for the number of the first four shapes
    question: str  # {kind} and {colour} are those of the first shape, {other} is the second
    shapes: str = "00 11 22 33"  # kind and colour of each: 00 and 01 are of one kind
    places: str = ""  # in the same order; anywhere, if empty
    size: int = 12  # of the shapes 00: half the height, in pixels
    kind: str = ""  # of the shapes 0x; any, if empty
    colour: str = ""  # of the shapes x0; any, if empty


_FROM_LEFT = "left, centre, top right, bottom right"
_FROM_TOP = "top, centre, bottom, bottom right"
_TOUCHING = "left, centre, right, bottom right"

SCENES = (
    Scene("colour", "colour", "What colour is the {kind}?"),
    Scene("colour", "colour", "What is the colour of the smallest shape?", size=8),
    Scene("colour", "colour", "Which colour appears most often?", "00 10 20 11 32"),
    Scene("colour", "colour", "What colour is the {kind}?", colour="brown"),
    Scene("shape", "kind", "What shape is the {colour} object?"),
    Scene("shape", "kind", "Which shape is {colour}?", "00 11 22"),
    Scene("shape", "kind", "What shape is the largest object?", size=16),
    Scene("shape", "kind", "Which shape is not in the picture?", "11 22 33 12 23"),
    Scene("count", "number", "How many {kind}s are in the picture?", "00 01 02 03 11 22"),
    Scene("count", "number", "How many {colour} shapes do you see?", "00 10 20 30 11 22"),
    Scene("count", "number", "How many different colours do you see?"),
    Scene("count", "number", "How many {kind}s are there?", "00 00 00 00", _TOUCHING, 22, "circle"),
    Scene("position", "place", "Where is the {colour} {kind}?"),
    Scene("position", "kind", "Which shape is furthest to the left?", places=_FROM_LEFT),
    Scene("position", "colour", "What colour is the shape above the {other}?", places=_FROM_TOP),
    Scene("position", "colour", "Which colour is closest to the {other}?", places=_FROM_LEFT),
)
