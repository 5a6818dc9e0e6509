// The acquire loop of node-redlock, for the benchmarks and for the survival scenarios.
"use strict";
const { ExecutionError } = require("redlock");

// Its own retries keep the keys of a failed attempt, so two clients that split the vote wait for a TTL.
// A failed call deletes its keys, so one attempt per call with a random pause is the best for this library.
module.exports = async (redlock, name, ttl) => {
  for (;;) {
    try {
      return await redlock.acquire([name], ttl);
    } catch (exc) {
      if (!(exc instanceof ExecutionError)) throw exc;
      await new Promise((resolve) => setTimeout(resolve, 2 + 10 * Math.random()));
    }
  }
};
