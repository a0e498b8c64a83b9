"""Every interleaving of who takes part in a user page's sleeping and waking: nobody sleeps while there is work.

A model of what `user_page_loop.c`, `user_page_thread.c` and `user_page_results.c` do with the inbox, the ring of
results and the words that say who sleeps.  Each takes part as a list of instructions; a store waits in its writer's
buffer until a fence, or whenever, so that what later instructions read may be older: the reordering that the code's
barriers forbid.  All states are visited.  One in which nobody can go on is the end, and there all must be over and done
once.
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


def loop_program():
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
        ("cas", "won", "loop", AWAKE, IN_FUTEX),
        ("if", lambda r: not r["won"], "poked"),
        ("load", "tail", "tail", "recheck tail"),
        ("if", lambda r: r["tail"] != r["head"], "awake", "recheck tail"),
        ("futex", "loop", IN_FUTEX),
        ("label", "awake"),
        ("swap", "was", "loop", AWAKE),
        ("if", lambda r: r["was"] == POKED, "reap"),
        ("goto", "wait"),
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
    """Take, serve as far as there is room, wake the loop, sleep where there is nothing to do."""
    return [
        ("label", "pass"),
        ("load", "stop", "stop"),
        ("if", lambda r: r["stop"], "over"),
        ("take", "taken", "inbox"),
        ("local", lambda r: {"fresh": r["fresh"] + r["taken"], "posts": False, "held": False}),
        ("label", "serve"),
        ("if", lambda r: not r["fresh"], "served"),
        ("load", "head", "head"),
        ("local", lambda r: {"held": r["posted"] - r["head"] >= 1}),
        ("if", lambda r: r["held"], "served"),
        ("local", lambda r: {"done": r["done"] + r["fresh"][:1], "fresh": r["fresh"][1:], "posted": r["posted"] + 1,
                             "posts": True}),
        ("store", "tail", lambda r: r["posted"]),
        ("goto", "serve"),
        ("label", "served"),
        ("look",),
        ("if", lambda r: not r["posts"], "idle"),
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
        ("if", lambda r: r["stop"], "rise", "recheck stop"),
        ("if", lambda r: not r["held"] and r["taken"] != (), "rise", "recheck inbox"),
        ("if", lambda r: r["held"] and r["posted"] - r["head"] < 1, "rise", "recheck head"),
        ("epoll",),
        ("label", "rise"),
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


OPERANDS = {"fence": 1, "load": 3, "if": 3, "ring": 1}


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


REGISTERS = (
    {"sent": 0, "head": 0, "tail": 0, "state": None, "won": None, "was": None},
    {"fresh": (), "taken": (), "done": (), "posted": 0, "posts": False, "held": False, "head": 0, "stop": False,
     "state": None, "won": None},
    {"was": None},
)
MEMORY = {"inbox": (), "tail": 0, "head": 0, "loop": AWAKE, "thread": AWAKE, "stop": False, "doorbell": False}


class Model:
    """States are tuples: the memory, and for each participant its place, registers, buffer, and what it sleeps on."""

    def __init__(self, omitted=None):
        self.programs = [without(make(), omitted) for make in (loop_program, server_program, waker_program)]
        self.words = list(MEMORY)
        self.names = [list(registers) for registers in REGISTERS]

    def start(self):
        return tuple(MEMORY.values()), tuple((0, tuple(registers.values()), (), None) for registers in REGISTERS)

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

    @staticmethod
    def replaced(everybody, who, new):
        return (*everybody[:who], new, *everybody[who + 1 :])

    def run(self, memory, everybody, who):
        """One instruction of one participant, with those behind it that nobody else can see."""
        program, places = self.programs[who]
        at, values, buffer, _ = everybody[who]
        registers = dict(zip(self.names[who], values, strict=True))
        while program[at][0] in ("label", "goto", "if", "local"):
            name, *operands = program[at]
            at += 1
            if name == "goto" or (name == "if" and operands[0](registers)):
                at = places[operands[-1]]
            elif name == "local":
                registers.update(operands[0](registers))
        name, *operands = program[at]
        if name == "end":
            return
        if buffer and name in ("fence", "swap", "cas", "futex", "wake", "epoll", "ring"):
            return  # only when the buffer has been emptied
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
        _, everybody = state
        for (program, _), (at, *_, sleeps) in zip(self.programs, everybody, strict=True):
            if sleeps is not None:
                return f"sleeps for ever in {sleeps}"
            if not any(instruction[0] == "end" for instruction in program[at:]):
                return "stuck"
        loop, server = (dict(zip(self.names[who], everybody[who][1], strict=True)) for who in (0, 1))
        if server["done"] != tuple(range(ENTRIES)) or loop["head"] != ENTRIES:
            return f"served {server['done']}, reaped {loop['head']}"
        return None


def test_nobody_sleeps_while_there_is_work():
    states, trouble = Model().trouble()
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
