// The departures board: what became of each flight. The sidecar sorts them by rules in the Common Expression Language,
// so this service never looks at a delay.
//
// Official SDK over HTTP. Flights may come more than once and many at a time. They are counted in groups: all that
// arrived while the last group was being written are the next one, and one transaction writes the marks of its flights
// and the tally, which its ETag guards. No message is answered before it is written.
"use strict";

const { createHash } = require("node:crypto");
const { DaprServer, HttpMethod, StateConcurrencyEnum } = require("@dapr/dapr");

const STORE = "statestore";
const TALLY = "tally";
const LARGEST_GROUP = 100;
const PATIENCE_MS = 45_000;
const OUTCOMES = { "/cancelled": "cancelled", "/late": "late", "/on-time": "on_time" };
const ROUTES = {
  rules: [
    { match: "event.data.cancelled == true", path: "/cancelled" },
    { match: "event.data.arrival_delay >= 15", path: "/late" },
  ],
  default: "/on-time",
};

const server = new DaprServer({
  serverHost: "127.0.0.1",
  serverPort: process.env.APP_PORT,
  clientOptions: { daprHost: "127.0.0.1", daprPort: process.env.DAPR_HTTP_PORT },
});
const state = server.client.state;
const waiting = [];
let writing = false;

// Adds to a sum of hashes of names, as flights.imprint does.
function imprint(before, name) {
  const hash = createHash("sha256").update(name).digest().readBigUInt64BE(0);
  return BigInt.asUintN(64, BigInt(`0x${before}`) + hash).toString(16);
}

// Resolves when a flight is counted, now or already.
function count(name, origin, outcome) {
  return new Promise((resolve, reject) => {
    waiting.push({ name, origin, outcome, resolve, reject });
    if (!writing) write();
  });
}

async function write() {
  writing = true;
  while (waiting.length > 0) {
    const group = waiting.splice(0, LARGEST_GROUP);
    try {
      await writeGroup(group);
      group.forEach((flight) => flight.resolve());
    } catch (error) {
      group.forEach((flight) => flight.reject(error));
    }
  }
  writing = false;
}

async function writeGroup(group) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const before = await read([TALLY]); // before the marks: whoever adds a mark meanwhile changes the tally as well
    const marks = await read(group.map((flight) => `seen:${flight.name}`));
    const tally = before.get(TALLY)?.data ?? { flights: 0, repeated: 0, airports: {}, imprint: "0" };
    const operations = [];
    for (const { name, origin, outcome } of group) {
      if (marks.has(`seen:${name}`)) {
        tally.repeated += 1;
        continue;
      }
      marks.set(`seen:${name}`, {});
      operations.push({ operation: "upsert", request: { key: `seen:${name}`, value: outcome } });
      const airport = (tally.airports[origin] ??= {});
      airport[outcome] = (airport[outcome] ?? 0) + 1;
      tally.flights += 1;
      tally.imprint = imprint(tally.imprint, name);
    }
    const options = { concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE };
    const request = { key: TALLY, value: tally, etag: before.get(TALLY)?.etag, options };
    try {
      return await state.transaction(STORE, [...operations, { operation: "upsert", request }]);
    } catch (error) {
      if (Date.now() > deadline) throw error;
      console.log(`once more: ${error.message}`);
    }
  }
}

async function read(keys) {
  const found = await state.getBulk(STORE, [...new Set(keys)]);
  const broken = found.find((item) => item.error);
  if (broken) throw new Error(`${broken.key}: ${broken.error}`);
  return new Map(found.filter((item) => item.data !== undefined).map((item) => [item.key, item]));
}

async function main() {
  await server.pubsub.subscribeWithOptions("pubsub", "departures", { route: ROUTES });
  for (const [path, outcome] of Object.entries(OUTCOMES)) {
    server.pubsub.subscribeToRoute("pubsub", "departures", path, async (flight) => {
      try {
        await count(flight.name, flight.origin, outcome);
      } catch (error) {
        console.log(`given back: ${error.message}`);
        return "RETRY"; // the SDK takes an exception for success
      }
      return "SUCCESS";
    });
  }
  await server.invoker.listen("tally", async () => (await read([TALLY])).get(TALLY)?.data ?? { flights: 0 }, {
    method: HttpMethod.GET,
  });
  await server.start();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
