"""Settings of `prefloop label`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import (
    HELDOUT,
    Rows,
    Selecting,
    require,
    require_part,
    require_rows,
    require_selecting,
    require_selects,
)
from prefloop.configs.sign_in import SignIn


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulateConfig:
    """Pair the completions in a store and let a simulated annotator, whose utility is known, compare them."""

    store: str
    """Store that holds the completions: a file or a database URL."""
    utility: str = "toy"
    """How good a completion truly is: `toy`, the folder of a fitted judge, or `module:function` for a Python function of (prompt, completion) that gives a number."""
    annotator: str = "simulated"
    """Name of the annotator. Use another name for other settings."""
    temperature: float = 1.0
    """Bradley-Terry noise, in units of the utility: a is preferred to b with probability sigmoid((u_a - u_b) / temperature); at 0 there is no such noise."""
    flip: float = 0.0
    """Share of judgements that are then flipped."""
    tie_width: float = 0.0
    """The verdict is a tie if the utilities differ by less than this."""
    pairs: Literal["all", "random", "none"] = "all"
    """Pairs of each prompt's completions: all with different texts, or one at random; none judges the existing pairs of the round,
    such as those of `label select`."""
    checkpoints: tuple[str, ...] = ()
    """Pair the completions of these policies only; none means all in the store."""
    round: int = 0
    """Round of the loop, from 0."""
    seed: int = 0
    """Everything random derives from it."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name the store that holds the completions")
        require(bool(self.annotator), "annotator is empty; give a name")
        require(
            self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 (never errs) or more"
        )
        require(0 <= self.flip <= 1, f"flip is {self.flip}; it must be a share, between 0 and 1")
        require(
            self.pairs != "none" or not self.checkpoints,
            "checkpoints are named, but pairs is none, so no completion is paired; leave checkpoints out",
        )
        require(self.tie_width >= 0, f"tie_width is {self.tie_width}; it must be 0 (no ties) or more")
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")


MOST_CHAT_MODELS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatAnswers:
    """How the models of live chats answer."""

    temperature: float = 1.0
    """Sampling temperature; above 0, because one model would otherwise answer the same twice."""
    max_new_tokens: int = 256
    """Maximum tokens of an answer; fewer if the model's positions leave fewer."""
    timeout: float = 120.0
    """Seconds for one attempt."""
    attempts: int = 2
    """Attempts per answer, the first included."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key for servers; if it is not set, no key is sent."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where checkpoints are run; auto uses a GPU if there is one."""

    def __post_init__(self) -> None:
        require(
            0 < self.temperature <= 10,
            f"answers.temperature is {self.temperature}; it must be above 0, and 10 at most",
        )
        require(
            1 <= self.max_new_tokens <= 4096,
            f"answers.max_new_tokens is {self.max_new_tokens}; it must be 1 to 4096",
        )
        require(self.timeout > 0, f"answers.timeout is {self.timeout}; it must be above 0 seconds")
        require(self.attempts >= 1, f"answers.attempts is {self.attempts}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Serve the labelling studio: people compare in a browser, the store keeps it. Stop it with Ctrl-C."""

    store: str = "prefloop.db"
    """Store to label in, created if missing: a file or a database URL."""
    host: str = "127.0.0.1"
    """Address to listen on. For other machines put a proxy with TLS in front of it, and set public_url."""
    port: int = 8100
    """Port to listen on."""
    demo: bool = False
    """Fill an empty store with questions and replies to compare."""
    public_url: str = ""
    """Address that people type, if it differs, for example https://label.example.org. With https, cookies need TLS."""
    workers: int = 1
    """Processes. More than one is for PostgreSQL; SQLite has one writer at a time anyway."""
    media: str = ""
    """Folder of the clips that `clip` projects name."""
    runs: str = ""
    """Folder that holds run folders. Admins follow the trainings below it in the browser, under Runs."""
    chat: tuple[str, ...] = ()
    """Models to talk to: a checkpoint (folder or hub name), or the address of an OpenAI-compatible server and a model, written http://127.0.0.1:8000/v1#MODEL. One model answers twice, with different seeds; of several, two are drawn for each message."""
    answers: ChatAnswers = field(default_factory=ChatAnswers)
    oidc: SignIn = field(default_factory=SignIn)
    metrics: str = ""
    """Serve numbers for Prometheus at http://HOST:PORT/metrics, for example 127.0.0.1:9464. Anyone who reaches that address can read them."""
    webhook_networks: tuple[str, ...] = ()
    """Networks of your own that webhooks may reach, for example 10.0.0.0/8. Without them they reach public addresses only, over TLS."""
    log_format: Literal["text", "json"] = "text"
    """Log lines as text or as JSON objects."""
    log_requests: bool = False
    """Log a line for each request: method, route, status and milliseconds, without texts or names."""

    def __post_init__(self) -> None:
        require(bool(self.store), "store is empty; name a file, for example prefloop.db, or a database URL")
        require(1 <= self.port <= 65535, f"port is {self.port}; it must be 1 to 65535")
        require(1 <= self.workers <= 64, f"workers is {self.workers}; it must be 1 to 64")
        require(
            bool(self.chat) or self.answers == ChatAnswers(),
            "answers are set, but chat names no model that could answer; name one, or leave answers out",
        )
        addresses = [model for model in self.chat if model.startswith(("http://", "https://"))]
        require(
            self.answers.device == "auto" or len(addresses) < len(self.chat),
            f"answers.device is {self.answers.device}, but chat names no checkpoint to run here; leave it out",
        )
        require(
            self.answers.key_variable == ChatAnswers().key_variable or bool(addresses),
            f"answers.key_variable is {self.answers.key_variable}, but chat names no address that a key is sent to; leave it out",
        )
        require(
            len(self.chat) <= MOST_CHAT_MODELS,
            f"chat names {len(self.chat)} models; {MOST_CHAT_MODELS} are the most",
        )
        for model in self.chat:
            require(bool(model.strip()), "chat names an empty model; give a folder, a hub name or an address")
            require(
                not model.startswith(("http://", "https://")) or bool(model.partition("#")[2]),
                f"chat is {model}, an address without a model; write it as {model.rstrip('#')}#MODEL",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelImportConfig(Rows):
    """Put a file's completions into a project of the studio, to be judged. Without a server."""

    source: str  # pyright: ignore[reportGeneralTypeIssues]  # required here
    """A file (.jsonl .json .csv .tsv .parquet, also .gz and .zst), a folder, or a Hugging Face data set's name."""
    store: str = "prefloop.db"
    """Store to write to, created if missing."""
    project: str = "Comparisons"
    """Project, by name or number; a new name creates a project."""
    kind: Literal["pair", "rank", "best_worst", "rate", "binary", "edit", "clip"] | None = None
    """What a new project asks: compare two (`pair`, the default), rank several, choose the best and the worst, rate on scales, good or bad, write a better one, compare clips."""
    overlap: int | None = None
    """How many annotators judge each item of a new project; 1 by default."""
    guidelines: str = ""
    """File with the guidelines of a new project, in Markdown."""
    render: Literal["plain", "markdown"] | None = None
    """How the texts of a new project are shown; plain text by default."""
    author: str = "human"
    """Who wrote the completions: `human`, or the name of a model."""
    gold: bool = False
    """The file's answers are known to be right; such items are asked now and then to check the annotators."""
    gold_stage: Literal["work", "practice", "qualification"] = "work"
    """When such items are asked: among the work, or before it: as practice, where the answer is told afterwards, or as a qualification."""
    gold_share: float | None = None
    """Share of questions that are such items, for a project without any; 0.1 by default."""
    round: int = 0
    """Round of the loop of the items, from 0."""
    limit: int = 0
    """Use this many records at most; 0 uses all."""
    skip_bad: bool = False
    """Leave malformed rows out, counted, instead of stopping at them."""

    def __post_init__(self) -> None:
        require(bool(self.source), "source is empty; name a file, a folder or a data set")
        require_rows(self)
        require(bool(self.project.strip()), "project is empty; give a name")
        require(
            self.overlap is None or 1 <= self.overlap <= 1000,
            f"overlap is {self.overlap}; it must be 1 to 1000",
        )
        require(
            self.gold_share is None or 0 < self.gold_share <= 0.5,
            f"gold_share is {self.gold_share}; it must be above 0, and 0.5 at most",
        )
        require(
            self.gold or self.gold_share is None,
            f"gold_share is {self.gold_share}, but gold is off, so no answer is known; set gold, or leave gold_share out",
        )
        require(
            self.gold or self.gold_stage == "work",
            f"gold_stage is {self.gold_stage}, but gold is off, so no answer is known; set gold, or leave gold_stage out",
        )
        require(
            self.gold_stage == "work" or self.gold_share is None,
            f"gold_share is {self.gold_share}, but gold_stage is {self.gold_stage}, which comes before the work; leave one of them out",
        )
        require(self.round >= 0, f"round is {self.round}; it must be 0 or more")
        require(self.limit >= 0, f"limit is {self.limit}; it must be 0 (all) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelExportConfig(Selecting):
    """Write judgements to a file in the field's format, with a manifest that leads back to every judgement."""

    out: str
    """File to write, .jsonl or .jsonl.gz."""
    store: str = "prefloop.db"
    """Store to read."""
    kind: Literal["comparisons", "rankings", "labels", "scores", "demonstrations"] = "comparisons"
    """What to export: preference pairs, rankings, good and bad (unpaired), ratings, or rewritten replies."""
    format: Literal["", "comparison", "implicit", "hh", "demonstration", "messages"] = ""
    """Another format of the same: `implicit` (whole dialogues) or `hh` (transcripts) for comparisons, `messages` for demonstrations."""
    part: Literal["all", "train", "heldout"] = "all"
    """Which prompts, by hash."""
    heldout: float = HELDOUT
    """Share of prompts held out; it says what `part` means."""
    skip_bad: bool = False
    """Leave out and count what files cannot hold: empty completions."""
    images: Literal["folder", "inline"] = "folder"
    """Where images go: to a folder beside the file, or into it as data: URLs."""

    def __post_init__(self) -> None:
        require(bool(self.out), "out is empty; name a file to write, for example comparisons.jsonl")
        require_part(self.part, self.heldout)
        require_selecting(self)
        require_selects(self, self.kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class InviteTerms:
    """What an invitation link gives, to how many people."""

    projects: tuple[str, ...] = ()
    """Projects that people join, by name or number."""
    role: Literal["annotator", "adjudicator", "manager", "admin"] = "annotator"
    """Their role: `admin` is for the whole studio, `manager` for the named projects."""
    uses: int = 1
    """How many people can use it."""
    days: int = 7
    """How long it works."""
    note: str = ""
    """Name of the link in the list."""

    def __post_init__(self) -> None:
        require(1 <= self.uses <= 1000, f"uses is {self.uses}; it must be 1 to 1000")
        require(1 <= self.days <= 365, f"days is {self.days}; it must be 1 to 365")
        require(len(self.note) <= 100, f"note has {len(self.note)} characters; at most 100 are allowed")
        require(
            self.role != "admin" or not self.projects,
            "role is admin, but projects are named; an admin runs all of them, so leave projects out",
        )
        require(
            self.role != "manager" or bool(self.projects),
            "role is manager, but no project is named; name those that they run with --projects",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class InviteConfig(InviteTerms):
    """Make an invitation link, to some projects or to those that are open to everybody."""

    store: str = "prefloop.db"
    """Store that the studio serves: a file or a database URL."""
    public_url: str = "http://127.0.0.1:8100"
    """Address at which people reach the studio."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UserResetConfig:
    """Make a one-time link that sets a new password for somebody who cannot sign in. They are signed out everywhere at once."""

    login: str
    """Login of the person."""
    store: str = "prefloop.db"
    """Store that the studio serves: a file or a database URL."""
    public_url: str = "http://127.0.0.1:8100"
    """Address at which people reach the studio."""
    second_factor_off: bool = False
    """Turn two-factor sign-in off, if they have lost their app and their recovery codes too."""

    def __post_init__(self) -> None:
        require(bool(self.login.strip()), "login is empty; name the account")


@dataclass(frozen=True, kw_only=True, slots=True)
class UserEraseConfig:
    """Erase a person: their account and every word they wrote. Their choices stay under a pseudonym. The command prints the proof."""

    login: str
    """Login of the person, or their pseudonym."""
    store: str = "prefloop.db"
    """Store that the studio serves: a file or a database URL."""
    out: str = ""
    """File for the proof, as JSON."""
    yes: bool = False
    """Erase without asking for the login to be typed."""

    def __post_init__(self) -> None:
        require(bool(self.login.strip()), "login is empty; name the account or the pseudonym")


@dataclass(frozen=True, kw_only=True, slots=True)
class UserRetainConfig:
    """Delete the accounts of people who have done nothing for a long time, but admins and managers. Without --yes true it only lists them."""

    days: int
    """Days without an answer, a message or a visit after which an account goes."""
    words: bool = False
    """Erase every word that they wrote too, as `label user erase` does; otherwise their choices and words stay, under the pseudonym."""
    store: str = "prefloop.db"
    """Store that the studio serves: a file or a database URL."""
    yes: bool = False
    """Delete them."""

    def __post_init__(self) -> None:
        require(self.days >= 1, f"days is {self.days}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEraseConfig:
    """Erase an image from a store, wherever it is shown: one that shows a person who asks for it, say. Texts keep its place and description."""

    image: str
    """Its SHA-256, or 12 characters or more of its beginning: an image's address on the studio's pages ends with it, and so does an exported file's name."""
    store: str = "prefloop.db"
    """Store that the studio serves: a file or a database URL."""
    yes: bool = False
    """Erase without asking for the hash to be typed."""

    def __post_init__(self) -> None:
        given = self.image.lower()
        require(
            12 <= len(given) <= 64 and set(given) <= set("0123456789abcdef"),
            f"image is {self.image!r}; give its SHA-256, or 12 of its digits or more from the beginning",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectStateConfig:
    """Hide a project and its contents from annotators, or open it again."""

    project: str
    """Project, by name or number."""
    store: str = "prefloop.db"
    """Store that holds it: a file or a database URL."""
    state: Literal["open", "paused", "closed", "archived"] = "archived"
    """New state. An archived project is shown to admins only; a paused or closed one is shown but asks nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectMembersConfig:
    """Add, change and remove the members of a project; without changes, list them."""

    project: str
    """Project, by name or number."""
    store: str = "prefloop.db"
    """Store that holds it: a file or a database URL."""
    access: Literal["members", "everyone", "public"] | None = None
    """Who has access: members only, everybody with an account, or (of a chat) visitors without an account too. Not changed by default."""
    add: tuple[str, ...] = ()
    """Logins to make members, or to give another role."""
    role: Literal["annotator", "adjudicator", "manager"] = "annotator"
    """Role of those who are added."""
    remove: tuple[str, ...] = ()
    """Logins to remove. Their judgements stay."""

    def __post_init__(self) -> None:
        require(
            bool(self.add) or self.role == "annotator",
            f"role is {self.role}, but add is empty; name the logins that get it, or leave role out",
        )
        twice = sorted(set(self.add) & set(self.remove))
        require(not twice, f"add and remove both name {', '.join(twice)}; name them in one only")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecruitConfig:
    """Make a link by which a recruiting platform sends people to a project, or close one; without --platform, show the links of the project and who came."""

    project: str
    """Project, by name or number."""
    store: str = "prefloop.db"
    """Store that holds it: a file or a database URL."""
    platform: Literal["prolific", "mturk"] | None = None
    """Platform that sends people: Prolific or Amazon Mechanical Turk."""
    answers: int = 0
    """Answers of each person, after which they get their completion code; sets the project's quota. 0 leaves it as it is."""
    places: int = 100
    """People that the study takes."""
    code: str = ""
    """Completion code, as the platform knows it; drawn if it is empty."""
    close: tuple[int, ...] = ()
    """Numbers of links, as listed, that take nobody else. Who came by them continues."""
    reopen: tuple[int, ...] = ()
    """Numbers of links that take people again."""
    public_url: str = "http://127.0.0.1:8100"
    """Address at which people reach the studio."""
    out: str = ""
    """File to write the participants to, as CSV: number, pseudonym, when they began and finished, code."""

    def __post_init__(self) -> None:
        require(self.answers >= 0, f"answers is {self.answers}; it must be 0 (as it is) or more")
        require(
            self.platform is not None or not (self.answers or self.code),
            "answers and code are for a new study, but platform is empty; name it, or leave them out",
        )
        twice = sorted(set(self.close) & set(self.reopen))
        require(not twice, f"close and reopen both name {', '.join(map(str, twice))}; name it in one only")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectDeleteConfig:
    """Delete a project: its items are no longer asked, and its answers are withdrawn. The command first says what will be deleted."""

    project: str
    """Project, by name or number."""
    store: str = "prefloop.db"
    """Store that holds it: a file or a database URL."""
    yes: bool = False
    """Delete it without asking for its name to be typed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupConfig:
    """Write a consistent copy of a store, in use or not. Nothing is overwritten."""

    out: str
    """File to write."""
    store: str = "prefloop.db"
    """Store to copy."""

    def __post_init__(self) -> None:
        require(bool(self.out), "out is empty; name a file to write, for example prefloop-backup.db")


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreConfig:
    """Restore a backup to a place that holds no store."""

    backup: str
    """File that `prefloop label backup` wrote."""
    store: str
    """Where to: a new file, or an empty PostgreSQL database."""

    def __post_init__(self) -> None:
        require(bool(self.backup) and bool(self.store), "name the backup and the store to restore it to")
