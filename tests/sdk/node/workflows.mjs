// Workflows written with the official JavaScript SDK, run by this process and steered by its client. The environment
// says where the sidecar is. Prints one line for each thing that held; a failed expectation ends the process with 1.
import assert from "node:assert/strict";
import {setTimeout as pause} from "node:timers/promises";
import {DaprWorkflowClient, WorkflowRuntime, WorkflowRuntimeStatus} from "@dapr/dapr";

const WAIT_S = 30;
const where = {daprHost: "127.0.0.1", daprPort: process.env.DAPR_GRPC_PORT};
const did = [];

async function double(_, number) {
  await pause(1);
  return number * 2;
}

async function book(_, what) {
  if (what === "car") throw new Error("no cars left");
  did.push(`booked ${what}`);
  return what;
}

async function cancel(_, what) {
  did.push(`cancelled ${what}`);
}

async function* chain(context, number) {
  for (let step = 0; step < 3; step++) number = yield context.callActivity(double, number);
  return number;
}

async function* fan(context, width) {
  const parts = yield context.whenAll([...Array(width).keys()].map((number) => context.callActivity(double, number)));
  return parts.reduce((sum, part) => sum + part, 0);
}

async function* monitor(context, left) {
  yield context.createTimer(0.01);
  if (left === 1) return "seen enough";  // the SDK carries no 0
  context.continueAsNew(left - 1, true);
}

async function* approval(context, seconds) {
  context.setCustomStatus("waiting for a decision");
  const decision = context.waitForExternalEvent("decision");
  const timer = context.createTimer(seconds);
  const winner = yield context.whenAny([decision, timer]);
  return winner === decision ? decision.getResult() : "too late";
}

async function* parent(context, number) {
  const one = yield context.callChildWorkflow(chain, number, `${context.getWorkflowInstanceId()}-chain`);
  const other = yield context.callChildWorkflow(fan, number);
  return [one, other];
}

async function* family(context) {
  return yield context.callChildWorkflow(approval, 3600, `${context.getWorkflowInstanceId()}-child`);
}

async function* saga(context, wishes) {
  const done = [];
  try {
    for (const what of wishes) done.push(yield context.callActivity(book, what));
  } catch (error) {
    for (const what of done.reverse()) yield context.callActivity(cancel, what);
    return `failed: ${error.message}`;
  }
  return done;
}

async function* broken(_, text) {
  throw new RangeError(text);
}

const runtime = new WorkflowRuntime(where);
const workflows = [chain, fan, monitor, approval, parent, family, saga, broken];
for (const workflow of workflows) runtime.registerWorkflow(workflow);
for (const activity of [double, book, cancel]) runtime.registerActivity(activity);
await runtime.start();
const client = new DaprWorkflowClient(where);

async function end(id) {
  const state = await client.waitForWorkflowCompletion(id, true, WAIT_S);
  assert.ok(state, id);
  return state;
}

async function result(name, input, id) {
  const state = await end(await client.scheduleNewWorkflow(name, input, id));
  assert.equal(state.runtimeStatus, WorkflowRuntimeStatus.COMPLETED, state.workflowFailureDetails?.getErrorMessage());
  return JSON.parse(state.serializedOutput);
}

async function status(id) {
  return (await client.getWorkflowState(id, false))?.runtimeStatus;
}

async function held(name, work) {
  await work();
  console.log(`held: ${name}`);
}

await held("chain", async () => assert.equal(await result(chain, 1), 8));
await held("fan", async () => assert.equal(await result(fan, 30), 870));
await held("monitor", async () => assert.equal(await result(monitor, 5), "seen enough"));
await held("children", async () => assert.deepEqual(await result(parent, 3, "parent-1"), [24, 6]));
await held("saga", async () => {
  assert.match(await result(saga, ["flight", "hotel", "car"]), /no cars left/);
  assert.deepEqual(did, ["booked flight", "booked hotel", "cancelled hotel", "cancelled flight"]);
});
await held("events and timers", async () => {
  const id = await client.scheduleNewWorkflow(approval, 3600);
  const state = await client.waitForWorkflowStart(id, true, WAIT_S);
  assert.match(state.customStatus ?? state.serializedCustomStatus, /waiting for a decision/);
  await client.raiseEvent(id, "Decision", {by: "ada"});
  assert.deepEqual(JSON.parse((await end(id)).serializedOutput), {by: "ada"});
  assert.equal(await result(approval, 0.05), "too late");
});
await held("failures", async () => {
  const state = await end(await client.scheduleNewWorkflow(broken, "out of range"));
  assert.equal(state.runtimeStatus, WorkflowRuntimeStatus.FAILED);
  assert.match(state.workflowFailureDetails.getErrorMessage(), /out of range/);
});
await held("suspend and resume", async () => {
  const id = await client.scheduleNewWorkflow(approval, 3600);
  await client.suspendWorkflow(id);
  assert.equal(await status(id), WorkflowRuntimeStatus.SUSPENDED);
  await client.raiseEvent(id, "decision", "yes");
  await client.resumeWorkflow(id);
  assert.equal(JSON.parse((await end(id)).serializedOutput), "yes");
});
await held("terminate and purge", async () => {
  const id = await client.scheduleNewWorkflow(family, undefined, "family-1");
  await client.waitForWorkflowStart("family-1-child", false, WAIT_S);
  await client.terminateWorkflow(id, "tired");
  assert.equal((await end(id)).runtimeStatus, WorkflowRuntimeStatus.TERMINATED);
  assert.equal(await status("family-1-child"), WorkflowRuntimeStatus.RUNNING); // this SDK asks for the one alone
  await client.terminateWorkflow("family-1-child", "tired");
  assert.equal(await client.purgeWorkflow(id), true);
  assert.equal(await client.getWorkflowState(id, false), undefined);
});
await held("a start at a given time", async () => {
  const never = await client.scheduleNewWorkflow(chain, 1, undefined, new Date(Date.now() + 3_600_000));
  assert.equal(await status(never), WorkflowRuntimeStatus.PENDING);
  await client.terminateWorkflow(never, "tired");
  assert.equal((await end(never)).runtimeStatus, WorkflowRuntimeStatus.TERMINATED);
  const at = new Date(Date.now() + 1000);
  const id = await client.scheduleNewWorkflow(chain, 1, undefined, at);
  await end(id);
  assert.ok(Date.now() >= at);
});
await held("many at once", async () => {
  const numbers = [...Array(50).keys()].map((each) => each + 1); // the SDK returns nothing for 0
  assert.deepEqual(await Promise.all(numbers.map((number) => result(chain, number))), numbers.map((each) => each * 8));
});
await client.stop();
await runtime.stop();
process.exit(0);
