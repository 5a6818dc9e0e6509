"""Mutants in the Lua scripts; see `mutants`. Schedules kill them, or a named test."""

from __future__ import annotations

from tests.sim.mutant_list import MutantList

LIST = MutantList()
_SCRIPTS = ("acquire", "confirm", "extend", "release", "repair", "admit", "open", "write", "declare")
_acquire, _confirm, _extend, _release, _repair, _admit, _open, _write, _declare = LIST.files(
    *(f"_transport/scripts/{name}.lua" for name in _SCRIPTS)
)
UNIT, DIRECTED, SCRIPTS = "tests/unit/test_", "tests/sim/test_directed", "tests/sim/test_scripts.py::test_"

# The acquire script.
_acquire("SET without looking", "elseif found then", "elseif false then")
_acquire(
    "one of two locks is enough",
    "holder = holder or found\n    remaining",
    "holder = i > 2 and found or holder\n    remaining",
)
_acquire(
    "a lock without a TTL", "redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4])", "redis.call('SET', KEYS[i], ARGV[3])"
)
_acquire(
    "half a TTL",
    "redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4])",
    "redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4] / 2)",
)
_acquire("woken clients take what is held", "elseif found then", "elseif found and ARGV[7] ~= '1' then")
# The token.
_acquire("the fence is set, not raised", "fence = fence + 1\n", "fence = tonumber(ARGV[5])\n")
_acquire("the fence is not kept", "redis.call('SET', KEYS[i + 1], string.format('%.0f', fence), 'PX', ARGV[6])", "")
_confirm("confirm writes without looking", "if holder ~= ARGV[3] or fence >= token then", "if false then")
_confirm("confirm does not write", "redis.call('SET', KEYS[i + 1], string.format('%.0f', token), 'PX', ARGV[5])", "")
_acquire(
    "digits lost in printing",
    "redis.call('SET', KEYS[i + 1], string.format('%.0f', fence), 'PX', ARGV[6])",
    "redis.call('SET', KEYS[i + 1], tostring(fence), 'PX', ARGV[6])",
)
# Extension and repair.
_extend(
    "an extension of whatever is there",
    "if holder and holder ~= ARGV[3] then",
    "if false then",
    f"{DIRECTED}.py::test_2_an_extension_does_not_lengthen_what_is_another_s",
)
_extend(
    "an extension that creates",
    "if missing then\n  return {0, now, 0, '', 0}\nend",
    "if missing then\n  for i = 2, #KEYS, 2 do redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4]) end\nend",
    f"{DIRECTED}.py::test_2_a_lost_lease_does_not_come_back",
)
_extend(
    "an extension that shortens",
    "redis.call('PEXPIRE', KEYS[i], ARGV[4])",
    "redis.call('PEXPIRE', KEYS[i], ARGV[4] / 4)",
)
_extend("an extension that extends nothing", "redis.call('PEXPIRE', KEYS[i], ARGV[4])", "")
_extend(
    "a failed extension deletes",
    "if missing then\n",
    "if missing then\n  for i = 2, #KEYS, 2 do redis.call('DEL', KEYS[i]) end\n",
    f"{DIRECTED}.py::test_2_an_extension_that_fails_deletes_nothing",
)
LIST.add(
    "repair over another's lock",
    _repair.piece("if holder and holder ~= ARGV[3] then", "if false then"),
    _repair.piece("if not redis.call('GET', KEYS[i]) then", "if true then"),
)
# Release.
_release("release of whatever is there", "if holder == ARGV[1] then", "if holder then")
_release(
    "release deletes the fence",
    "redis.call('DEL', KEYS[i])",
    "redis.call('DEL', KEYS[i])\n    redis.call('DEL', '\\1redlock:fence:' .. KEYS[i])",
)
_release("release deletes nothing", "redis.call('DEL', KEYS[i])\n  else", "redis.call('GET', KEYS[i])\n  else")
LIST.add(
    "a reservation that never ends",
    _release.piece(
        "redis.call('SET', KEYS[i + 2], 'reserved', 'PX', ARGV[3])", "redis.call('SET', KEYS[i + 2], 'reserved')"
    ),
    _acquire.piece(
        "ARGV[7] ~= '1' and redis.call('GET', KEYS[i + 2]) == 'reserved'",
        "redis.call('GET', KEYS[i + 2]) == 'reserved'",
    ),
)
# Quarantine.
_admit("no quarantine", "local age = now - tonumber(record[2])", "local age = 1e15")
_admit("admitted without a look at the run_id", "if record[1] ~= ARGV[#ARGV] then", "if not record[1] then")
_declare(
    "declared after a client",
    " and not (record[3] or record[4])",
    "",
    f"{SCRIPTS}only_a_node_without_clients_is_declared",
)
_declare(
    "declared after a restart", "record[1] == ARGV[1] and ", "", f"{SCRIPTS}only_a_node_without_clients_is_declared"
)
_admit("admitted at the second try", "if age < quarantine then", "if age < 0 then")
_admit("since is written anew at each look", "if age < 0 then", "if true then")
_admit(
    "the first client sets the quarantine",
    "if quarantine < tonumber(ARGV[2]) then",
    "if not record[4] then",
    f"{SCRIPTS}a_node_votes_abstains_or_rejects_as_its_record_says",
)
_admit(
    "settings are stored without a vote",
    "'quarantine', ARGV[2])\n  return",
    "'quarantine', ARGV[2], 'fingerprint', ARGV[1])\n  return",
    f"{SCRIPTS}a_node_votes_abstains_or_rejects_as_its_record_says",
)
# Tokens far ahead, and the memory of a client.
LIST.add(
    "an implausible token counts",
    _acquire.piece("if known >= most then", "if false then"),
    _confirm.piece("if token > most then", "if false then"),
    test=f"{DIRECTED}.py::test_7_a_node_with_an_implausible_token_has_no_vote",
)
_acquire(
    "an implausible proposal counts",
    "if fence >= most then",
    "if false then",
    f"{DIRECTED}.py::test_7_a_token_an_hour_ahead_is_refused_without_a_write",
)
_acquire(
    "only the token of an implausible fence is ignored",
    "    return redis.error_reply('FENCESTORED a token more than an hour ahead of the clock of this node is stored')",
    "    known = 0",
    f"{DIRECTED}.py::test_7_a_node_with_an_implausible_token_has_no_vote",
)
# Sets of names.
_confirm(
    "confirm looks at the first name only",
    "if holder ~= ARGV[3] or fence >= token then",
    "if i == 2 and (holder ~= ARGV[3] or fence >= token) then",
    f"{SCRIPTS}a_script_answers_and_writes_as_its_comment_says[confirm]",
)
_repair(
    "repair looks at the first name only",
    "if holder and holder ~= ARGV[3] then",
    "if i == 2 and holder and holder ~= ARGV[3] then",
    f"{SCRIPTS}a_script_answers_and_writes_as_its_comment_says[repair]",
)
_repair(
    "repair sets the fence",
    "math.max(tonumber(redis.call('GET', KEYS[i + 1]) or '0'), tonumber(ARGV[5]))",
    "tonumber(ARGV[5])",
    f"{SCRIPTS}a_script_answers_and_writes_as_its_comment_says[repair]",
)
_release(
    "a release wakes for the first name only",
    "if redis.call('LLEN', KEYS[i + 1]) == 0 then",
    "if i == 1 and redis.call('LLEN', KEYS[i + 1]) == 0 then",
    f"{SCRIPTS}a_script_answers_and_writes_as_its_comment_says[release]",
)
# The store.
_open("open takes every token", "if token < fence or (token == fence and seen[2] ~= ARGV[2]) then", "if false then")
LIST.add(
    "open does not remember the owner",
    _open.piece("'owner', ARGV[2], ", ""),
    _write.piece(" or seen[2] ~= ARGV[2]", ""),
    test=f"{DIRECTED}_store.py::test_10_two_operations_under_one_lease_lose_no_update",
)
LIST.add(
    "the read raises no token",
    _open.piece("if token < fence or (token == fence and seen[2] ~= ARGV[2]) then", "if token < fence then"),
    _open.piece("redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'owner', ARGV[2], 'open', section)", ""),
    _write.piece(
        "if tonumber(seen[1] or '0') ~= tonumber(ARGV[1]) or seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3] then",
        "if tonumber(ARGV[1]) < tonumber(seen[1] or '0') then",
    ),
    _write.piece(
        "redis.call('HSET', KEYS[1], 'value', ARGV[4])",
        "redis.call('HSET', KEYS[1], 'value', ARGV[4], 'fence', ARGV[1])",
    ),
)
_write(
    "write without a look at the section",
    " or seen[3] ~= ARGV[3]",
    "",
    f"{DIRECTED}_store.py::test_10_two_operations_under_one_lease_lose_no_update",
)
_write(
    "write without a look at the token",
    "if tonumber(seen[1] or '0') ~= tonumber(ARGV[1]) or seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3] then",
    "if seen[3] == false then",
)
_write("no memory of operations", "if old then", "if false then")
_write("operations are forgotten at once", "'PX', ARGV[5])", "'PX', '1')")
_write(
    "a section is not closed",
    "redis.call('HSET', KEYS[1], 'open', '')",
    "",
    f"{SCRIPTS}the_store_writes_as_the_comment_of_the_script_says",
)
