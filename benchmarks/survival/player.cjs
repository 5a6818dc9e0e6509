// The client of node-redlock. benchmarks/survival/contender.py documents the commands.
"use strict";
const Redis = require("ioredis");
const { default: Redlock } = require("redlock");
const readline = require("node:readline");
const attempts = require("../peers/acquire.cjs");

let redlock, ttl, held, store, next;
const clock = () => Number(process.hrtime.bigint()) / 1e9;

const acquire = (name) => attempts(redlock, name, ttl);

const commands = {
  async connect(said) {
    ttl = said.ttl * 1000;
    // The library has no timeout per node. ioredis has this timeout, equal to that of the other peers.
    const limit = Number(process.env.SURVIVAL_NODE_TIMEOUT_MS);
    const options = { maxRetriesPerRequest: 0, connectTimeout: 100, ...(limit ? { commandTimeout: limit } : {}) };
    const servers = said.urls.map((url) => new Redis(url, options));
    for (const server of servers) server.on("error", () => {});
    redlock = new Redlock(servers, { retryCount: 0 });
    redlock.on("error", () => {});
    return { prefix: "" };
  },
  async take(said) {
    const since = clock();
    held = await acquire(said.name);
    return { since, at: clock() };
  },
  async drop() {
    await held.release();
    return {};
  },
  async read(said) {
    store = new Redis(said.store);
    next = Number(await store.get("counter")) + 1;
    return {};
  },
  async write() {
    await store.set("counter", next);
    return {};
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const said = JSON.parse(line);
    let answer;
    try {
      answer = await commands[said.do](said);
    } catch (exc) {
      answer = { error: String(exc) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  process.exit(0);
})();
