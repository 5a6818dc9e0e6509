"""Seeded bugs, each a replaced piece of the shipped source: a tester that does not find them would not find ours.

A mutant is killed by a broken promise or an exception in the simulator, or by the test that `mutants_named.NAMED`
gives. A survivor must be in `EQUIVALENT` there, with the reason why no promise changes.
"""

from __future__ import annotations

from tests.sim import mutants_asyncio, mutants_transport
from tests.sim.mutant_list import MutantList

PROTOCOL, VOTES = "_core/protocol.py", "_core/votes.py"
_SCRIPTS = ("acquire", "confirm", "extend", "release", "repair", "admit", "open", "write", "declare")
ACQUIRE, CONFIRM, EXTEND, RELEASE, REPAIR, ADMIT, OPEN, WRITE, DECLARE = (
    f"_transport/scripts/{name}.lua" for name in _SCRIPTS
)

_LIST = MutantList()
_bug, _pieces = _LIST.add, _LIST.add_pieces

# Rounds and their results.
_bug("a quorum that is no majority", VOTES, "return nodes // 2 + 1", "return max(1, nodes // 2)")
_bug("no drift allowance", VOTES, "return -(-ttl_ms // 100) + 2", "return 0")
_bug("a deadline past the TTL", VOTES, "return sent_ms + ttl_ms - drift_ms(ttl_ms) - 1", "return sent_ms + ttl_ms * 2")
_bug(
    "validity counted from the end",
    PROTOCOL,
    "deadline_ms(attempt.ttl_ms, first.sent_ms)",
    "deadline_ms(attempt.ttl_ms, last.done_ms)",
)
_bug("validity never looked at", PROTOCOL, "if not won or last.done_ms >= by:", "if not won:")
_bug(
    "validity not counted from the first round",
    PROTOCOL,
    "deadline_ms(attempt.ttl_ms, first.sent_ms)",
    "deadline_ms(attempt.ttl_ms, last.sent_ms) + attempt.ttl_ms // 2",
)
_bug("won without a quorum", PROTOCOL, "if not first.won or first.disagreement is not None:", "if first.granted == 0:")
_bug(
    "silence is a yes",
    "_transport/decoder.py",
    "return Vote(Kind.SILENT, remaining_ms=left_ms",
    "return Vote(Kind.GRANTED, remaining_ms=left_ms",
)
_bug(
    "a lost round keeps its keys",
    PROTOCOL,
    "yield Round(Release(attempt.names, attempt.token, wake_ms), Wait.SENT, to)",
    "return\n    yield",
)
_bug(
    "a lost round is taken back only where it was granted",
    VOTES,
    "enumerate(self.votes) if vote.kind is not Kind.DENIED])",
    "enumerate(self.votes) if vote.kind is Kind.GRANTED])",
)
_bug(
    "a tie is never decided",
    "_core/vote_tally.py",
    "return granted >= quorum or granted + unanswered < quorum",
    "return granted == quorum or granted + unanswered < quorum - 1",
)
_bug(
    "an old proposal counts",
    PROTOCOL,
    "by = deadline if attempt.decide_by_ms is None else min(deadline, attempt.decide_by_ms)",
    "by = deadline",
)
# The acquire script.
_bug("SET without looking", ACQUIRE, "elseif found then", "elseif false then")
_bug(
    "one of two locks is enough",
    ACQUIRE,
    "holder = holder or found\n    remaining",
    "holder = i > 2 and found or holder\n    remaining",
)
_bug(
    "a lock without a TTL",
    ACQUIRE,
    "redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4])",
    "redis.call('SET', KEYS[i], ARGV[3])",
)
_bug(
    "half a TTL",
    ACQUIRE,
    "redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4])",
    "redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4] / 2)",
)
_bug("woken clients take what is held", ACQUIRE, "elseif found then", "elseif found and ARGV[7] ~= '1' then")
# The token.
_bug(
    "the largest answer is the token",
    PROTOCOL,
    "fence, last, won, rounds = first.agreed_fence, first, True, 1",
    "fence, last, won, rounds = first.largest_fence, first, True, 1",
)
_bug(
    "agreed although one answered more",
    VOTES,
    "return largest if fences.count(largest) >= self.quorum else None",
    "return max(fences, key=fences.count) if fences else None",
)
_bug("the fence is set, not raised", ACQUIRE, "fence = fence + 1\n", "fence = tonumber(ARGV[5])\n")
_bug(
    "the fence is not kept", ACQUIRE, "redis.call('SET', KEYS[i + 1], string.format('%.0f', fence), 'PX', ARGV[6])", ""
)
_bug("a confirm of the same number", PROTOCOL, "if vote.kind is Kind.GRANTED) + 1", "if vote.kind is Kind.GRANTED)")
_bug("a confirm that needs no quorum", PROTOCOL, "won, rounds = last.won, 2", "won, rounds = last.granted > 0, 2")
_bug("confirm writes without looking", CONFIRM, "if holder ~= ARGV[3] or fence >= token then", "if false then")
_bug(
    "confirm does not write", CONFIRM, "redis.call('SET', KEYS[i + 1], string.format('%.0f', token), 'PX', ARGV[5])", ""
)
_bug(
    "digits lost in printing",
    ACQUIRE,
    "redis.call('SET', KEYS[i + 1], string.format('%.0f', fence), 'PX', ARGV[6])",
    "redis.call('SET', KEYS[i + 1], tostring(fence), 'PX', ARGV[6])",
)
# Extension and repair.
_bug(
    "an extension without a quorum",
    PROTOCOL,
    "if not round_result.won:\n        return Refusal(round_result)",
    "if round_result.granted == 0:\n        return Refusal(round_result)",
)
_bug(
    "an extension counted from its end",
    PROTOCOL,
    "deadline = deadline_ms(ttl_ms, round_result.sent_ms)",
    "deadline = deadline_ms(ttl_ms, round_result.done_ms) + ttl_ms // 4",
)
_bug("an extension after the deadline", PROTOCOL, "round_result.sent_ms >= grant.deadline_ms or ", "")
_bug("an extension of whatever is there", EXTEND, "if holder and holder ~= ARGV[3] then", "if false then")
_bug(
    "an extension that creates",
    EXTEND,
    "if missing then\n  return {0, now, 0, '', 0}\nend",
    "if missing then\n  for i = 2, #KEYS, 2 do redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4]) end\nend",
)
_bug(
    "an extension that shortens",
    EXTEND,
    "redis.call('PEXPIRE', KEYS[i], ARGV[4])",
    "redis.call('PEXPIRE', KEYS[i], ARGV[4] / 4)",
)
_bug("an extension that extends nothing", EXTEND, "redis.call('PEXPIRE', KEYS[i], ARGV[4])", "")
_bug(
    "a failed extension deletes",
    EXTEND,
    "if missing then\n",
    "if missing then\n  for i = 2, #KEYS, 2 do redis.call('DEL', KEYS[i]) end\n",
)
_bug(
    "repair after a lost extension",
    PROTOCOL,
    "if not round_result.won:\n        return Refusal(round_result)",
    "if not round_result.won:\n        yield Round(Repair(grant.names, grant.token, ttl_ms, grant.fence), Wait.SENT)\n        return Refusal(round_result)",
)
_pieces(
    "repair over another's lock",
    (REPAIR, "if holder and holder ~= ARGV[3] then", "if false then"),
    (REPAIR, "if not redis.call('GET', KEYS[i]) then", "if true then"),
)
# Release.
_bug("release of whatever is there", RELEASE, "if holder == ARGV[1] then", "if holder then")
_bug(
    "release deletes the fence",
    RELEASE,
    "redis.call('DEL', KEYS[i])",
    "redis.call('DEL', KEYS[i])\n    redis.call('DEL', '\\1redlock:fence:' .. KEYS[i])",
)
_bug("release deletes nothing", RELEASE, "redis.call('DEL', KEYS[i])\n  else", "redis.call('GET', KEYS[i])\n  else")
_pieces(
    "a reservation that never ends",
    (
        RELEASE,
        "redis.call('SET', KEYS[i + 2], 'reserved', 'PX', ARGV[3])",
        "redis.call('SET', KEYS[i + 2], 'reserved')",
    ),
    (
        ACQUIRE,
        "ARGV[7] ~= '1' and redis.call('GET', KEYS[i + 2]) == 'reserved'",
        "redis.call('GET', KEYS[i + 2]) == 'reserved'",
    ),
)
# Quarantine.
_bug("no quarantine", ADMIT, "local age = now - tonumber(record[2])", "local age = 1e15")
_bug("admitted without a look at the run_id", ADMIT, "if record[1] ~= ARGV[#ARGV] then", "if not record[1] then")
_bug("declared after a client", DECLARE, " and not (record[3] or record[4])", "")
_bug("declared after a restart", DECLARE, "record[1] == ARGV[1] and ", "")
_bug("admitted at the second try", ADMIT, "if age < quarantine then", "if age < 0 then")
_bug("a quarantine of half a lease", VOTES, "return max_ttl_ms + drift_ms(max_ttl_ms)", "return max_ttl_ms // 2")
_bug("since is written anew at each look", ADMIT, "if age < 0 then", "if true then")
_bug("the first client sets the quarantine", ADMIT, "if quarantine < tonumber(ARGV[2]) then", "if not record[4] then")
_bug(
    "settings are stored without a vote",
    ADMIT,
    "'quarantine', ARGV[2])\n  return",
    "'quarantine', ARGV[2], 'fingerprint', ARGV[1])\n  return",
)
_bug(
    "a lease without the bound of max_ttl",
    "_transport/codec.py",
    " and command.ttl_ms > self.max_ttl_ms:",
    " and False:",
)
# Tokens far ahead, and the memory of a client.
_pieces(
    "an implausible token counts",
    (ACQUIRE, "if known >= most then", "if false then"),
    (CONFIRM, "if token > most then", "if false then"),
)
_bug("an implausible proposal counts", ACQUIRE, "if fence >= most then", "if false then")
_bug(
    "only the token of an implausible fence is ignored",
    ACQUIRE,
    "    return redis.error_reply('FENCESTORED a token more than an hour ahead of the clock of this node is stored')",
    "    known = 0",
)
_bug(
    "a token is remembered for every resource",
    "_core/observed_fences.py",
    "self._largest.get(name, 0) + 1 for name in names",
    "1 + token for token in self._largest.values()",
)
_bug(
    "a proposal counts for too long",
    "_locking/client_context.py",
    "self.fresh_ms = options.max_ttl_ms // 2",
    "self.fresh_ms = options.max_ttl_ms",
)
# Sets of names.
_bug(
    "confirm looks at the first name only",
    CONFIRM,
    "if holder ~= ARGV[3] or fence >= token then",
    "if i == 2 and (holder ~= ARGV[3] or fence >= token) then",
)
_bug(
    "repair looks at the first name only",
    REPAIR,
    "if holder and holder ~= ARGV[3] then",
    "if i == 2 and holder and holder ~= ARGV[3] then",
)
_bug(
    "repair sets the fence",
    REPAIR,
    "math.max(tonumber(redis.call('GET', KEYS[i + 1]) or '0'), tonumber(ARGV[5]))",
    "tonumber(ARGV[5])",
)
_bug(
    "a release wakes for the first name only",
    RELEASE,
    "if redis.call('LLEN', KEYS[i + 1]) == 0 then",
    "if i == 1 and redis.call('LLEN', KEYS[i + 1]) == 0 then",
)
# The store.
_bug(
    "open takes every token", OPEN, "if token < fence or (token == fence and seen[2] ~= ARGV[2]) then", "if false then"
)
_pieces("open does not remember the owner", (OPEN, "'owner', ARGV[2], ", ""), (WRITE, " or seen[2] ~= ARGV[2]", ""))
_pieces(
    "the read raises no token",
    (OPEN, "if token < fence or (token == fence and seen[2] ~= ARGV[2]) then", "if token < fence then"),
    (OPEN, "redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'owner', ARGV[2], 'open', section)", ""),
    (
        WRITE,
        "if tonumber(seen[1] or '0') ~= tonumber(ARGV[1]) or seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3] then",
        "if tonumber(ARGV[1]) < tonumber(seen[1] or '0') then",
    ),
    (
        WRITE,
        "redis.call('HSET', KEYS[1], 'value', ARGV[4])",
        "redis.call('HSET', KEYS[1], 'value', ARGV[4], 'fence', ARGV[1])",
    ),
)
_bug("write without a look at the section", WRITE, " or seen[3] ~= ARGV[3]", "")
_bug(
    "write without a look at the token",
    WRITE,
    "if tonumber(seen[1] or '0') ~= tonumber(ARGV[1]) or seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3] then",
    "if seen[3] == false then",
)
_bug("no memory of operations", WRITE, "if old then", "if false then")
_bug("operations are forgotten at once", WRITE, "'PX', ARGV[5])", "'PX', '1')")
_bug("a section is not closed", WRITE, "redis.call('HSET', KEYS[1], 'open', '')", "")

MUTANTS = _LIST.mutants | mutants_transport.LIST.mutants | mutants_asyncio.LIST.mutants
