// The client of node-redlock. benchmarks/survival/contender.py documents the commands.
"use strict";
const Redis = require("ioredis");
const { default: Redlock, ExecutionError } = require("redlock");
const readline = require("node:readline");

let redlock, ttl, held, store, next;
const clock = () => Number(process.hrtime.bigint()) / 1e9;

// As in benchmarks/peers/node_redlock.cjs: one attempt per call and a random pause are the best for this library.
const acquire = async (name) => {
  for (;;) {
    try {
      return await redlock.acquire([name], ttl);
    } catch (exc) {
      if (!(exc instanceof ExecutionError)) throw exc;
      await new Promise((resolve) => setTimeout(resolve, 2 + 10 * Math.random()));
    }
  }
};

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
