-- The beginning of each script: the part of a stored text that a reply may have.
--
-- KEYS, ARGV  those of the script.
--
-- At most 2,048 bytes: a client ends a connection at a reply that is too long, and the connection carries the rounds of
-- other locks too. Another program can store such a text. No owner token and no fingerprint of this package is cut.
local function shown(text)
  return string.sub(text, 1, 2048)
end
