"""Everything the people of the toy world can say, as plain tables. The generator puts it together, the gold judge looks it up.

Six kinds of question, six subjects of each, four steps for every subject. Rules that the tests hold: steps are commands (in a
story: events), so that any of them can follow any lead; every step belongs to one subject; no subject is named in a step, in a
courtesy or in filler, so that naming the subject is a choice of its own. Words are few and used again, for a small tokenizer.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to ask about."""

    phrase: str
    """How a sentence names it, with its article."""
    steps: tuple[str, ...]
    """What a helpful reply says, in order."""

    @property
    def name(self) -> str:
        """The phrase without its article: the words that must stand in a reply that is on topic."""
        first, _, rest = self.phrase.partition(" ")
        return rest if first in ("a", "an", "the") else self.phrase


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question and how it is asked and answered."""

    questions: tuple[str, ...]
    """`{s}` is the subject's phrase, `{d}` a detail with a space before it, or nothing."""
    details: tuple[str, ...]
    leads: tuple[str, ...]
    """How a reply names the subject: before a comma, or as a sentence."""
    deed: str
    """What somebody did with such a subject, for the documents."""
    told: bool
    """A story is told sentence by sentence; other steps are joined in one."""
    subjects: tuple[Subject, ...]


def _lines(table: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in table.strip().splitlines())


def _details(table: str) -> tuple[str, ...]:
    return ("", *(f" {line}" for line in _lines(table)))


def _subjects(table: str) -> tuple[Subject, ...]:
    """One subject a line: `phrase: step; step; step; step`."""
    rows = (line.split(": ") for line in _lines(table))
    return tuple(Subject(phrase, tuple(steps.split("; "))) for phrase, steps in rows)


COOKING = Kind(
    questions=_lines("""
        How do I make {s}{d}?
        Can you tell me how to make {s}{d}?
        I want to make {s}{d}. Where do I start?
        What is a good way to make {s}{d}?
        Could you teach me to make {s}{d}?
        Please help me make {s}{d}.
        """),
    details=_details("""
        for my sister
        for four people
        for the first time
        in a small house
        for a sad friend
        on Sunday
        for the whole street
        """),
    leads=("To make {s},", "For {s},", "You can make {s}."),
    deed="made {s}",
    told=False,
    subjects=_subjects("""
        tomato soup: cook two onions in butter; add six soft tomatoes; let it cook for an hour; stir in a little cream
        an apple pie: slice six sour apples; roll the dough wide and thin; fill it with apples and sugar; bake it until it is gold
        pancakes: beat two eggs with milk; stir in flour until smooth; fry each one in butter; turn it when bubbles rise
        bread: mix flour, water and salt; fold and press the dough; let it rise all night; bake it until it sounds hollow
        an omelette: beat three eggs with a fork; fry some mushrooms in butter; cook it on one side; fold it and serve it warm
        a carrot cake: grate four sweet carrots; mix in eggs and flour; bake it for an hour; spread soft cheese on top
        """),
)

WALKING = Kind(
    questions=_lines("""
        How do I get to {s}{d}?
        Can you tell me the way to {s}{d}?
        I am looking for {s}. How do I get there{d}?
        Where is {s}, and how do I get there{d}?
        Could you show me the way to {s}{d}?
        Please help me find {s}{d}.
        """),
    details=_details("""
        from here
        on foot
        before dark
        with two heavy bags
        by the short road
        in the rain
        with a small child
        """),
    leads=("To reach {s},", "To get to {s},", "The way to {s} is easy."),
    deed="walked to {s}",
    told=False,
    subjects=_subjects("""
        the mill: go down the hill; follow the river past three trees; cross at the flat stones; look for the big wheel
        the harbour: take the road behind the church; keep the sea on your left; walk down ninety steps; stop where the boats are
        the market: walk along the high street; turn right at the fountain; follow the smell of apples; go through the iron gate
        the station: follow the rails north; go under the old bridge; pass the red brick house; wait for the long whistle
        the lighthouse: take the path over the hill; count seven white stones; mind the wild birds; climb to the lamp on top
        the museum: cross the park by the pond; turn left at the stone horse; go in by the blue door; ring the bell and wait
        """),
)

GARDENING = Kind(
    questions=_lines("""
        How do I care for {s}{d}?
        Can you tell me how to care for {s}{d}?
        I bought {s}. How do I care for it{d}?
        How do I keep {s} alive{d}?
        Could you teach me to grow {s}{d}?
        Please help me care for {s}{d}.
        """),
    details=_details("""
        at home
        in winter
        in a dark room
        when I travel
        for the first time
        in a small garden
        with little time
        """),
    leads=("To care for {s},", "For {s},", "You can grow {s}."),
    deed="watered {s}",
    told=False,
    subjects=_subjects("""
        a fern: keep it out of the sun; water it every second day; wash its leaves each morning; cut off the brown leaves
        a cactus: plant it in dry sand; put it in a bright window; water it once a month; let it sleep all winter
        a rose bush: give it six hours of sun; feed it in early spring; cut it back in winter; pick off the spotted leaves
        mint: give it a pot by itself; keep the soil wet; pick leaves from the top; cut it before it flowers
        a lemon tree: put it outside in summer; turn it a little each week; feed it with old coffee; bring it in before winter
        a sunflower: plant the seed deep in May; tie it to a tall stick; water it each evening; leave the seeds for the birds
        """),
)

STORIES = Kind(
    questions=_lines("""
        Tell me a short story about {s}{d}.
        Can you tell me a story about {s}{d}?
        I want to hear a story about {s}{d}.
        Do you know a story about {s}{d}?
        Could you make up a story about {s}{d}?
        Please tell us about {s}{d}.
        """),
    details=_details("""
        before bed
        for my little brother
        to make me smile
        for a long evening
        when we wait
        with a happy end
        by the fire
        """),
    leads=("Once there was {s}.", "Here is a story about {s}.", "This is the story of {s}."),
    deed="told a story about {s}",
    told=True,
    subjects=_subjects("""
        a fox: she found a red hat; the hat was far too big; so three mice moved in; now they travel together
        an owl: he was afraid of the dark; he slept beside a small lamp; moths came to dance around him; now he loves to stay up
        a bear: he could not sleep one winter; he counted every star twice; a bird sang him a song; he slept until the first flowers
        a hedgehog: she wanted somebody to hug her; a cat tried and said ouch; she dressed in soft wool; now friends wait at her door
        a goose: she flew north by mistake; there she met a sad whale; she taught the whale to sing; they still write every week
        a mouse: she lived inside an old violin; she danced on the strings; the house dreamed of music; nobody ever learned her name
        """),
)

PLANNING = Kind(
    questions=_lines("""
        What can we do for {s}{d}?
        Can you help me plan {s}{d}?
        I need a plan for {s}{d}. Any ideas?
        How do we make the best of {s}{d}?
        Could you plan {s} for us{d}?
        Please think of something for {s}{d}.
        """),
    details=_details("""
        with three children
        with my sister
        this week
        with little money
        with old friends
        for the two of us
        with a shy child
        """),
    leads=("For {s},", "To enjoy {s},", "{s} can be fun."),
    deed="talked about {s}",
    told=False,
    subjects=_subjects("""
        a rainy day: build a tent from blankets; paint the view from the window; race paper boats in the bath; make hot chocolate at four
        a snow day: build a very tall snowman; race down the white hill; warm your hands on hot tea; dry your socks by the fire
        a picnic: pack cheese, plums and cold tea; spread a blanket under a tree; fly a kite after lunch; take every crumb home
        a birthday: hang paper lamps in the garden; hide a gift in each room; sing before you cut the cake; let the youngest make a wish
        a train ride: take the seat by the window; count bridges and black sheep; draw the people you see; share a bag of plums
        a beach day: swim before the wind comes; build a castle with four towers; look for shells in the sand; eat cold melon in the shade
        """),
)

MENDING = Kind(
    questions=_lines("""
        How do I fix {s}{d}?
        Can you tell me how to fix {s}{d}?
        I have {s}. How do I fix it{d}?
        What can I do about {s}{d}?
        Could you teach me to fix {s}{d}?
        Please help me with {s}{d}.
        """),
    details=_details("""
        by myself
        with little money
        before my friends come
        on a Sunday
        in one hour
        before it rains
        with my left hand
        """),
    leads=("To fix {s},", "For {s},", "You can fix {s}."),
    deed="fixed {s}",
    told=False,
    subjects=_subjects("""
        a leaky tap: turn off the water; take off the handle; put in a new rubber ring; turn it until it is dry
        a squeaky door: lift it off the wall; clean the iron pins; rub the pins with soap; swing it until it is quiet
        a flat tyre: take the wheel off; hold the tube under water; mark where bubbles rise; press a patch on and wait
        a wobbly chair: find the short leg; scrape the old glue away; press new glue inside; tie it with string all night
        a stuck window: cut through the old paint; tap all around the frame; rub soap along both sides; push up with two hands
        a slow clock: open the glass door; brush the dust from the wheels; put one drop of oil inside; move the weight up a little
        """),
)

KINDS: tuple[Kind, ...] = (COOKING, WALKING, GARDENING, STORIES, PLANNING, MENDING)

GREETINGS: tuple[str, ...] = ("", "Hello! ", "Good morning! ", "Good evening! ", "Excuse me. ", "Hi there! ")
"""What a question may begin with."""

KIND_OPENINGS: tuple[str, ...] = (
    "Of course!",
    "With pleasure!",
    "Happy to help!",
    "Glad you asked!",
    "What a lovely question!",
)
RUDE_OPENINGS: tuple[str, ...] = (
    "Not you again.",
    "What a silly question.",
    "I have no time for this.",
    "Even a child knows that.",
    "Oh, leave me alone.",
)
KIND_CLOSINGS: tuple[str, ...] = (
    "I hope this helps!",
    "Come back any time!",
    "Have fun, my friend!",
    "You can do it!",
    "All the best!",
)
RUDE_CLOSINGS: tuple[str, ...] = (
    "Now go away.",
    "Do not ask me again.",
    "You will get it wrong.",
    "That is all you get.",
    "Ask somebody else next time.",
)
FILLER: tuple[str, ...] = (
    "There is so much to say about this.",
    "Some people do it and some people do not.",
    "It is what it is, they say.",
    "I could talk about this all day.",
    "That is how things are, more or less.",
    "Many people ask about many things.",
)
"""Sentences that say nothing and only take the reader's time."""
VAGUE: tuple[str, ...] = (
    "Just do it the usual way.",
    "It is not very hard.",
    "You will see when you try.",
    "Most people find out in the end.",
    "Use what you have at home.",
)
"""What stands in a reply that has no steps: an answer of sorts, with nothing in it."""

FIRST_STEP, ONLY_STEP = "First", "Just"
"""What begins a sentence of steps where no lead does."""
MIDDLE_JOINTS: tuple[str, ...] = (", ", ", then ")
LAST_JOINTS: tuple[str, ...] = (" and ", ", then ", ", and then ")
"""How one step follows another, inside a list and before its last."""

PEOPLE: tuple[str, ...] = ("Nora", "Otto", "Mara", "Hugo", "Lily", "Bruno", "Aunt Vera", "old Finn")
WEATHER: tuple[str, ...] = ("cold", "bright", "windy", "quiet", "warm", "grey", "golden", "wet")
TIMES: tuple[str, ...] = ("morning", "Monday", "evening", "Sunday", "spring day", "autumn day")
SCENES: tuple[str, ...] = (
    "The river was high and brown.",
    "Smoke rose from every roof.",
    "The bells rang at noon.",
    "Children ran along the street.",
    "The cat slept on the warm wall.",
    "A cart full of apples rolled by.",
    "Gulls sat in a row on the roof.",
    "The wind smelled of salt and wood.",
    "Somebody played a violin far away.",
    "The lamps were lit early.",
)
EVENINGS: tuple[str, ...] = (
    "In the evening they all sat by the fire.",
    "At night the valley was very still.",
    "Then it was time for bed.",
    "Nobody wanted to go home.",
    "It was a good day.",
    "Tomorrow there would be more to do.",
)
FEELINGS: tuple[str, ...] = (
    "I was proud for a week.",
    "It made me laugh.",
    "It took me all day.",
    "Everyone asked me how I did it.",
    "I think of you when I do it.",
    "The neighbours came to look.",
)
