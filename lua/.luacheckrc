-- What a script finds on every server Matinee runs on: Redis 7.0+, Valkey 8+ and, in the tests, fakeredis.
std = "lua51"
max_line_length = 120

-- Parts of Lua 5.1 that Redis keeps from its scripts.
not_globals = {
  "debug", "dofile", "getfenv", "io", "loadfile", "module", "newproxy", "os", "package", "print", "require", "setfenv",
}

-- bit, cmsgpack and struct are on real servers too, but not on fakeredis: scripts do without them.
read_globals = {
  "KEYS",
  "ARGV",
  redis = {
    fields = {
      "call", "pcall", "error_reply", "status_reply", "sha1hex", "log",
      "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING",
    },
  },
  cjson = { fields = { "encode", "decode", "null" } },
}
