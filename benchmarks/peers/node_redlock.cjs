// node-redlock on ioredis: all nodes at the same time. benchmarks/worker.py documents the commands.
"use strict";
const Redis = require("ioredis");
const { default: Redlock } = require("redlock");
const readline = require("node:readline");
const attempts = require("./acquire.cjs");

let redlock, ttl, servers;
const kept = [];
const clock = () => Number(process.hrtime.bigint()) / 1e9;
const rounded = (list) => list.map((seconds) => Math.round(seconds * 1e7) / 1e4);
const cpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1e6; };

const acquire = (name) => attempts(redlock, name, ttl);

const commands = {
  async connect(said) {
    ttl = said.ttl * 1000;
    servers = said.urls.map((url) => new Redis(url, { maxRetriesPerRequest: 0 }));
    for (const server of servers) server.on("error", () => {});
    redlock = new Redlock(servers, { retryCount: 0 });
    redlock.on("error", () => {});
    for (let number = 0; number < 200; number++) await (await acquire(`warm:${process.pid}:${number}`)).release();
    return {};
  },

  async cycle(said) {
    const times = [], used = cpu(), started = clock();
    let failures = 0, error = "", done = 0, before = started;
    while (before < started + said.seconds && done < (said.count || Infinity)) {
      try {
        const lock = await acquire(`${said.name}:${done % said.names}`);
        times.push(clock() - before);
        await lock.release();
      } catch (exc) {
        failures += 1;
        error = String(exc).slice(0, 200);
      }
      done += 1;
      before = clock();
    }
    const seconds = clock() - started;
    return { pairs: times.length, seconds, cpu: cpu() - used, failures, error, acquire_ms: rounded(times) };
  },

  async hot(said) {
    const counts = Array(said.threads).fill(0), waits = [], errors = [], used = cpu();
    const since = said.at + said.lead, until = since + said.seconds;
    let early = 0, again = 0;
    await Promise.all(counts.map(async (_, number) => {
      const store = new Redis(said.store);
      await store.ping();
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, (said.at - clock()) * 1000)));
      let before, written = -1;
      while ((before = clock()) < until) {
        try {
          const lock = await acquire(said.name);
          const after = clock();
          if (after >= since) waits.push(after - before);
          if (after < until) {
            const found = Number(await store.get("counter"));
            await store.set("counter", found + 1);
            if (after < since) early += 1;
            else {
              counts[number] += 1;
              if (found === written) again += 1;
            }
            written = found + 1;
          }
          await lock.release();
        } catch (exc) {
          errors.push(String(exc).slice(0, 200));
        }
      }
      store.disconnect();
    }));
    return {
      counts, early, again, wait_ms: rounded(waits), failures: errors.length, error: errors.at(-1) || "",
      cpu: cpu() - used,
    };
  },

  async take(said) {
    const since = clock();
    kept.push(await acquire(said.name));
    return { since, at: clock() };
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const said = JSON.parse(line);
    process.stdout.write(JSON.stringify(await commands[said.do](said)) + "\n");
  }
  process.exit(0);
})();
