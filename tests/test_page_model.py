"""Every interleaving of who takes part in a user page's sleeping and waking: nobody sleeps while there is work.

A model of what `user_page_loop.c`, `user_page_thread.c` and `user_page_results.c` do with the inbox, the ring of
results and the words that say who sleeps.  Each takes part as a list of instructions; a store waits in its writer's
buffer until a fence, or whenever, so that what later instructions read may be older: the reordering that the code's
barriers forbid.  All states are visited.  One in which nobody can go on is the end, and there all must be over and done
once and in order, by the thread or by the loop that helps before it sleeps.
"""

import pytest

ENTRIES = 2
AWAKE, IN_FUTEX, POKED = "awake", "in the futex", "poked"
ASLEEP, STALLED = "asleep", "stalled"

# Instructions, by what an executor has to know.  `r` are a participant's registers.
# ("label", name)  ("goto", name)  ("if", condition of r, name)  ("local", r -> changes)  ("end",)
# ("load", register, word)  ("store", word, value of r)  ("push", word, value of r)   the last two wait in the buffer
# ("fence",)  ("take", register, word)  ("swap", register, word, value)  ("cas", register, word, old, new)
# ("futex", word, value)  ("wake", word)  ("epoll",)  ("ring",)  ("look",)   a look at epoll takes the doorbell's edge
# ("lock",)  ("try", register)  ("unlock",)   the guard
# ("guarded", (memory, r) -> changes of both)   words that only the guard's holder touches


def begin(m, r):
    """What was in the inbox is taken."""
    return {"fresh": m["fresh"] + r["taken"], "taken": ()}


def is_more(m, r):
    return {"more": bool(m["fresh"]), "posted_now": m["posted"]}


def serve_one(m, r):
    return {"done": m["done"] + m["fresh"][:1], "fresh": m["fresh"][1:], "posted": m["posted"] + 1,
            "posted_now": m["posted"] + 1, "posts": True}


def serving(head):
    """Serve what was taken as far as there is room; `head`: how to learn how far the loop has reaped."""
    return [
        ("guarded", begin),
        ("label", "serve"),
        ("guarded", is_more),
        ("if", lambda r: not r["more"], "served"),
        *head,
        ("local", lambda r: {"held": r["posted_now"] - r["head"] >= 1}),
        ("if", lambda r: r["held"], "served"),
        ("guarded", serve_one),
        ("store", "tail", lambda r: r["posted_now"]),
        ("goto", "serve"),
        ("label", "served"),
        ("guarded", is_more),
        ("store", "unbegun", lambda r: r["more"]),
    ]


def helping():
    """Before a sleep: serve what the thread has not begun, if it does not hold the guard."""
    return [
        ("load", "taken", "inbox"),
        ("load", "more", "unbegun"),
        ("if", lambda r: not r["more"] and r["taken"] == (), "sleep"),
        ("try", "won", "guard"),
        ("if", lambda r: not r["won"], "sleep", "guard"),
        ("take", "taken", "inbox"),
        *serving([]),
        ("store", "touched", lambda r: True),
        ("local", lambda r: {"won": False}),
        ("if", lambda r: not r["more"], "let go"),
        ("cas", "won", "thread", ASLEEP, AWAKE),
        ("label", "let go"),
        ("unlock", "guard"),
        ("if", lambda r: not r["won"], "sleep"),
        ("ring",),
    ]


def loop_program(helps):
    """Publish each entry, then reap until all have come, sleeping where there is nothing; then stop the thread."""
    return [
        ("label", "publish"),
        ("push", "inbox", lambda r: r["sent"]),
        ("local", lambda r: {"sent": r["sent"] + 1}),
        ("fence", "publish"),
        ("load", "state", "thread"),
        ("if", lambda r: r["state"] != ASLEEP, "published"),
        ("cas", "won", "thread", ASLEEP, AWAKE),
        ("if", lambda r: not r["won"], "published"),
        ("ring",),
        ("label", "published"),
        ("if", lambda r: r["sent"] < ENTRIES, "publish"),
        ("label", "wait"),
        ("load", "tail", "tail"),
        ("if", lambda r: r["tail"] != r["head"], "reap"),
        *(helping() if helps else []),
        ("label", "sleep"),
        ("load", "tail", "tail"),
        ("if", lambda r: r["tail"] != r["head"], "reap"),
        ("cas", "won", "loop", AWAKE, IN_FUTEX),
        ("if", lambda r: not r["won"], "poked"),
        ("load", "tail", "tail", "recheck tail"),
        ("if", lambda r: r["tail"] != r["head"], "awake", "recheck tail"),
        ("futex", "loop", IN_FUTEX),
        ("label", "awake"),
        ("swap", "was", "loop", AWAKE),
        ("if", lambda r: r["was"] == POKED, "reap"),
        ("goto", "sleep"),
        ("label", "poked"),
        ("store", "loop", lambda r: AWAKE),
        ("fence", None),
        ("label", "reap"),
        ("load", "tail", "tail"),
        ("if", lambda r: r["tail"] == r["head"], "look"),
        ("local", lambda r: {"head": r["head"] + 1}),
        ("store", "head", lambda r: r["head"]),
        ("fence", "reap"),
        ("load", "state", "thread"),
        ("if", lambda r: r["state"] != STALLED, "look"),
        ("cas", "won", "thread", STALLED, AWAKE),
        ("if", lambda r: not r["won"], "look"),
        ("ring",),
        ("label", "look"),
        ("if", lambda r: r["head"] < ENTRIES, "wait"),
        ("store", "stop", lambda r: True),
        ("fence", None),
        ("ring", "stop"),
        ("end",),
    ]


def server_program():
    """Look without the guard; with it, take, serve as far as there is room, announce a sleep."""
    return [
        ("label", "pass"),
        ("load", "stop", "stop"),
        ("if", lambda r: r["stop"], "over"),
        ("look",),
        ("load", "taken", "inbox"),
        ("load", "touched", "touched"),
        ("local", lambda r: {"tired": r["taken"] == () and not r["touched"] and not r["left"]}),
        ("lock",),
        ("store", "touched", lambda r: False),
        ("take", "taken", "inbox"),
        ("local", lambda r: {"posts": False, "held": False}),
        *serving([("load", "head", "head")]),
        ("local", lambda r: {"left": r["more"] and not r["held"]}),
        ("if", lambda r: r["tired"] and not r["posts"] and not r["left"], "idle"),
        ("unlock",),
        ("if", lambda r: not r["posts"], "pass"),
        ("fence", "wake the loop"),
        ("load", "state", "loop"),
        ("if", lambda r: r["state"] != IN_FUTEX, "pass"),
        ("cas", "won", "loop", IN_FUTEX, AWAKE),
        ("if", lambda r: not r["won"], "pass"),
        ("wake", "loop"),
        ("goto", "pass"),
        ("label", "idle"),
        ("store", "thread", lambda r: STALLED if r["held"] else ASLEEP),
        ("fence", "announce"),
        ("load", "stop", "stop", "recheck stop"),
        ("load", "taken", "inbox", "recheck inbox"),
        ("load", "head", "head", "recheck head"),
        ("local", lambda r: {"tired": not r["held"] and r["taken"] != ()}),
        ("unlock",),
        ("if", lambda r: r["stop"], "rise", "recheck stop"),
        ("if", lambda r: r["tired"], "rise", "recheck inbox"),
        ("if", lambda r: r["held"] and r["posted_now"] - r["head"] < 1, "rise", "recheck head"),
        ("epoll",),
        ("label", "rise"),
        ("local", lambda r: {"taken": ()}),
        ("store", "thread", lambda r: AWAKE),
        ("fence", None),
        ("goto", "pass"),
        ("label", "over"),
        ("end",),
    ]


def waker_program():
    """Another thread ends the loop's sleep, now or the next one."""
    return [
        ("swap", "was", "loop", POKED),
        ("if", lambda r: r["was"] != IN_FUTEX, "done"),
        ("wake", "loop"),
        ("label", "done"),
        ("end",),
    ]


OPERANDS = {"fence": 1, "load": 3, "if": 3, "ring": 1, "try": 2, "unlock": 1}


def without(program, omitted):
    """The program without the instructions that bear a mark, and without marks."""
    kept = []
    for instruction in program:
        name = instruction[0]
        size = OPERANDS.get(name, len(instruction))
        if omitted is None or omitted not in instruction[size:]:
            kept.append(instruction[:size])
    places = {instruction[1]: at for at, instruction in enumerate(kept) if instruction[0] == "label"}
    return kept, places


SERVER = {"taken": (), "more": False, "posted_now": 0, "posts": False, "held": False, "head": 0}
REGISTERS = (
    {**SERVER, "sent": 0, "tail": 0, "state": None, "won": True, "was": None},
    {**SERVER, "tired": False, "left": False, "touched": False, "stop": False, "state": None, "won": None},
    {"was": None},
)
GUARDED = {"fresh": (), "posted": 0, "done": ()}
MEMORY = {"inbox": (), "tail": 0, "head": 0, "loop": AWAKE, "thread": AWAKE, "stop": False, "doorbell": False,
          "touched": False, "unbegun": False, "guard": False, **GUARDED}


class Model:
    """States are tuples: the memory, and for each participant its place, registers, buffer, and what it sleeps on.

    The loop `helps` the thread, or somebody else wakes it: both together are too many states for a test.
    """

    def __init__(self, omitted=None, *, helps=True):
        programs = [loop_program(helps), server_program()] + ([] if helps else [waker_program()])
        self.programs = [without(program, omitted) for program in programs]
        self.words = list(MEMORY)
        self.names = [list(registers) for registers in REGISTERS]

    def start(self):
        everybody = tuple((0, tuple(registers.values()), (), None) for registers in REGISTERS)
        return tuple(MEMORY.values()), everybody[: len(self.programs)]

    def flushed(self, memory, write):
        kind, word, value = write
        at = self.words.index(word)
        return self.written(memory, at, (*memory[at], value) if kind == "push" else value)

    @staticmethod
    def written(memory, at, value):
        return (*memory[:at], value, *memory[at + 1 :])

    def seen(self, memory, buffer, word):
        """What a load reads: the newest store of one's own, or the memory."""
        value = memory[self.words.index(word)]
        for kind, name, new in buffer:
            if name == word:
                value = (*value, new) if kind == "push" else new
        return value

    def steps(self, state):
        """All states that can come next."""
        memory, everybody = state
        for who, (at, values, buffer, sleeps) in enumerate(everybody):
            if buffer:
                yield self.flushed(memory, buffer[0]), self.replaced(everybody, who, (at, values, buffer[1:], sleeps))
            if sleeps is None:
                yield from self.run(memory, everybody, who)
            elif sleeps == "epoll" and memory[self.words.index("doorbell")]:
                quiet = self.written(memory, self.words.index("doorbell"), False)
                yield quiet, self.replaced(everybody, who, (at, values, buffer, None))

    def guarded(self, memory, registers, change):
        """What nobody but the guard's holder sees."""
        for name, value in change(dict(zip(self.words, memory, strict=True)), registers).items():
            if name in GUARDED:
                memory = self.written(memory, self.words.index(name), value)
            elif name in registers:
                registers[name] = value
        return memory

    @staticmethod
    def replaced(everybody, who, new):
        return (*everybody[:who], new, *everybody[who + 1 :])

    def run(self, memory, everybody, who):
        """One instruction of one participant, with those behind it that nobody else can see."""
        program, places = self.programs[who]
        at, values, buffer, _ = everybody[who]
        registers = dict(zip(self.names[who], values, strict=True))
        while program[at][0] in ("label", "goto", "if", "local", "guarded"):
            name, *operands = program[at]
            at += 1
            if name == "guarded":
                memory = self.guarded(memory, registers, operands[0])
            if name == "goto" or (name == "if" and operands[0](registers)):
                at = places[operands[-1]]
            elif name == "local":
                registers.update(operands[0](registers))
        name, *operands = program[at]
        if name == "end":
            return
        if buffer and name in ("fence", "swap", "cas", "futex", "wake", "epoll", "ring", "lock", "try"):
            return  # only when the buffer has been emptied
        guard = self.words.index("guard")
        if name == "lock" and memory[guard]:
            return
        sleeps, woken = None, None
        if name == "load":
            registers[operands[0]] = self.seen(memory, buffer, operands[1])
        elif name in ("store", "push"):
            buffer = (*buffer, (name, operands[0], operands[1](registers)))
        elif name in ("take", "swap", "cas"):
            word = self.words.index(operands[1])
            registers[operands[0]] = memory[word] if name != "cas" else memory[word] == operands[2]
            if name != "cas" or registers[operands[0]]:
                memory = self.written(memory, word, () if name == "take" else operands[-1])
        elif name in ("lock", "try"):
            if name == "try":
                registers[operands[0]] = not memory[guard]
            memory = self.written(memory, guard, True)
        elif name == "unlock":  # no more than a release: what follows may be read before it is seen
            buffer = (*buffer, ("store", "guard", False))
        elif name == "futex" and memory[self.words.index(operands[0])] == operands[1]:
            sleeps = "futex"
        elif name == "epoll":
            sleeps = "epoll"
        elif name in ("ring", "look"):
            memory = self.written(memory, self.words.index("doorbell"), name == "ring")
        elif name == "wake":
            woken = "futex"
        everybody = self.replaced(everybody, who, (at + 1, tuple(registers.values()), buffer, sleeps))
        if woken:
            everybody = tuple((*one[:3], None if one[3] == woken else one[3]) for one in everybody)
        yield memory, everybody

    def trouble(self):
        """How many states there are, and what is wrong with the first one that is an end and should not be."""
        seen, todo = {self.start()}, [self.start()]
        while todo:
            state = todo.pop()
            stuck = True
            for after in self.steps(state):
                stuck = False
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
            if stuck and (wrong := self.wrong(state)):
                return len(seen), wrong
        return len(seen), None

    def wrong(self, state):
        memory, everybody = state
        for (program, _), (at, *_, sleeps) in zip(self.programs, everybody, strict=True):
            if sleeps is not None:
                return f"sleeps for ever in {sleeps}"
            if not any(instruction[0] == "end" for instruction in program[at:]):
                return "stuck"
        head = dict(zip(self.names[0], everybody[0][1], strict=True))["head"]
        done = memory[self.words.index("done")]
        if done != tuple(range(ENTRIES)) or head != ENTRIES:
            return f"served {done}, reaped {head}"
        return None


@pytest.mark.parametrize("helps", [True, False], ids=["helping", "woken by others"])
def test_nobody_sleeps_while_there_is_work(helps):
    states, trouble = Model(helps=helps).trouble()
    assert trouble is None
    assert states > 1000


@pytest.mark.parametrize(
    "omitted",
    ["publish", "reap", "wake the loop", "announce", "recheck tail", "recheck inbox", "recheck head", "recheck stop",
     "stop"],
)
def test_each_barrier_and_each_second_look_is_needed(omitted):
    """The model can fail: without any one of them there is an interleaving in which somebody sleeps for ever."""
    _, trouble = Model(omitted).trouble()
    assert trouble is not None
    assert trouble.startswith("sleeps for ever")


def test_helping_takes_the_guard():
    """Without it an entry is served twice, or its result is lost."""
    _, trouble = Model("guard").trouble()
    assert trouble is not None
