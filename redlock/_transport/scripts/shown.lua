-- The beginning of each script: the part of a stored text that a reply may have.
--
-- KEYS, ARGV  those of the script.
--
-- At most 2,048 bytes, and no end that looks like the header of a long list. A client ends a connection at both, and the
-- connection carries the rounds of other locks too. Another program can store such a text. No owner token and no
-- fingerprint of this package is changed here.
local function shown(text)
  local reply = string.gsub(string.sub(text, 1, 2048) .. '\r\n', '([*%%~>|][0-9][0-9][0-9][0-9]+)\r\n', '%1.\r\n')
  return string.sub(reply, 1, -3)
end
