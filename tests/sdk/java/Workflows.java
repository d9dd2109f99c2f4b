import io.dapr.durabletask.Task;
import io.dapr.durabletask.TaskCanceledException;
import io.dapr.durabletask.TaskFailedException;
import io.dapr.workflows.Workflow;
import io.dapr.workflows.WorkflowActivity;
import io.dapr.workflows.WorkflowActivityContext;
import io.dapr.workflows.WorkflowStub;
import io.dapr.workflows.WorkflowTaskOptions;
import io.dapr.workflows.WorkflowTaskRetryPolicy;
import io.dapr.workflows.client.DaprWorkflowClient;
import io.dapr.workflows.client.NewWorkflowOptions;
import io.dapr.workflows.client.WorkflowRuntimeStatus;
import io.dapr.workflows.client.WorkflowState;
import io.dapr.workflows.runtime.WorkflowRuntime;
import io.dapr.workflows.runtime.WorkflowRuntimeBuilder;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Workflows written with the official Java SDK, run by this process and steered by its client. The environment says
 * where the sidecar is. Prints one line for each thing that held; a failed expectation ends the process with 1.
 */
public class Workflows {
  static final Duration WAIT = Duration.ofSeconds(30);
  static final List<String> DID = new CopyOnWriteArrayList<>();
  static final AtomicInteger TRIES = new AtomicInteger();

  public static class Doubler implements WorkflowActivity {
    @Override
    public Object run(WorkflowActivityContext context) {
      return context.getInput(Integer.class) * 2;
    }
  }

  public static class Booking implements WorkflowActivity {
    @Override
    public Object run(WorkflowActivityContext context) {
      String what = context.getInput(String.class);
      if (what.equals("car")) {
        throw new IllegalStateException("no cars left");
      }
      DID.add("booked " + what);
      return what;
    }
  }

  public static class Cancelling implements WorkflowActivity {
    @Override
    public Object run(WorkflowActivityContext context) {
      DID.add("cancelled " + context.getInput(String.class));
      return null;
    }
  }

  public static class Shaky implements WorkflowActivity {
    @Override
    public Object run(WorkflowActivityContext context) {
      if (TRIES.incrementAndGet() < 3) {
        throw new IllegalArgumentException("not yet");
      }
      return TRIES.get();
    }
  }

  public static class Chain implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        int number = context.getInput(Integer.class);
        for (int step = 0; step < 3; step++) {
          number = context.callActivity(Doubler.class.getCanonicalName(), number, Integer.class).await();
        }
        context.complete(number);
      };
    }
  }

  public static class Fan implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        List<Task<Integer>> parts = new ArrayList<>();
        for (int number = 0; number < context.getInput(Integer.class); number++) {
          parts.add(context.callActivity(Doubler.class.getCanonicalName(), number, Integer.class));
        }
        context.complete(context.allOf(parts).await().stream().mapToInt(Integer::intValue).sum());
      };
    }
  }

  public static class Monitor implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        int left = context.getInput(Integer.class);
        context.createTimer(Duration.ofMillis(10)).await();
        if (left > 0) {
          context.continueAsNew(left - 1);
        } else {
          context.complete("seen enough");
        }
      };
    }
  }

  public static class Approval implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        context.setCustomStatus("waiting for a decision");
        Duration patience = Duration.ofMillis(context.getInput(Integer.class));
        try {
          context.complete(context.waitForExternalEvent("decision", patience, String.class).await());
        } catch (TaskCanceledException tooLate) {
          context.complete("too late");
        }
      };
    }
  }

  public static class Parent implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        String named = context.getInstanceId() + "-chain";
        int one = context.callChildWorkflow(Chain.class.getCanonicalName(), 3, named, Integer.class).await();
        int other = context.callChildWorkflow(Fan.class.getCanonicalName(), 3, Integer.class).await();
        context.complete(one + other);
      };
    }
  }

  public static class Family implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        String child = context.getInstanceId() + "-child";
        String name = Approval.class.getCanonicalName();
        context.complete(context.callChildWorkflow(name, 3_600_000, child, String.class).await());
      };
    }
  }

  public static class Saga implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        List<String> done = new ArrayList<>();
        try {
          for (String what : List.of("flight", "hotel", "car")) {
            done.add(context.callActivity(Booking.class.getCanonicalName(), what, String.class).await());
          }
          context.complete("booked");
        } catch (TaskFailedException error) {
          Collections.reverse(done);
          for (String what : done) {
            context.callActivity(Cancelling.class.getCanonicalName(), what).await();
          }
          context.complete(error.getErrorDetails().getErrorMessage());
        }
      };
    }
  }

  public static class Stubborn implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        WorkflowTaskRetryPolicy often = WorkflowTaskRetryPolicy.newBuilder()
            .setMaxNumberOfAttempts(5)
            .setFirstRetryInterval(Duration.ofMillis(20))
            .build();
        WorkflowTaskOptions options = new WorkflowTaskOptions(often);
        context.complete(context.callActivity(Shaky.class.getCanonicalName(), null, options, Integer.class).await());
      };
    }
  }

  public static class Broken implements Workflow {
    @Override
    public WorkflowStub create() {
      return context -> {
        throw new ArithmeticException("one over nothing");
      };
    }
  }

  static DaprWorkflowClient client;

  static WorkflowState end(String id) throws Exception {
    return client.waitForWorkflowCompletion(id, WAIT, true);
  }

  static <T> T result(Class<? extends Workflow> type, Object input, Class<T> as) throws Exception {
    WorkflowState state = end(client.scheduleNewWorkflow(type, input));
    expect(state.getRuntimeStatus() == WorkflowRuntimeStatus.COMPLETED, String.valueOf(state));
    return state.readOutputAs(as);
  }

  static WorkflowRuntimeStatus status(String id) {
    return client.getWorkflowState(id, false).getRuntimeStatus();
  }

  static void expect(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  static void held(String name) {
    System.out.println("held: " + name);
  }

  public static void main(String[] arguments) throws Exception {
    WorkflowRuntimeBuilder builder = new WorkflowRuntimeBuilder()
        .registerWorkflow(Chain.class).registerWorkflow(Fan.class).registerWorkflow(Monitor.class)
        .registerWorkflow(Approval.class).registerWorkflow(Parent.class).registerWorkflow(Family.class)
        .registerWorkflow(Saga.class).registerWorkflow(Stubborn.class).registerWorkflow(Broken.class)
        .registerActivity(Doubler.class).registerActivity(Booking.class).registerActivity(Cancelling.class)
        .registerActivity(Shaky.class);
    WorkflowRuntime runtime = builder.build();
    runtime.start(false);
    client = new DaprWorkflowClient();
    try {
      judge();
    } catch (Exception | AssertionError error) {
      error.printStackTrace();
      System.exit(1);
    }
    System.exit(0);
  }

  static void judge() throws Exception {
    expect(result(Chain.class, 1, Integer.class) == 8, "8");
    held("chain");
    expect(result(Fan.class, 30, Integer.class) == 870, "870");
    held("fan");
    expect(result(Monitor.class, 4, String.class).equals("seen enough"), "monitor");
    held("monitor");
    expect(result(Parent.class, null, Integer.class) == 30, "30");
    held("children");
    expect(result(Saga.class, null, String.class).contains("no cars left"), "saga");
    expect(DID.equals(List.of("booked flight", "booked hotel", "cancelled hotel", "cancelled flight")), "" + DID);
    held("saga");
    expect(result(Stubborn.class, null, Integer.class) == 3, "3");
    held("retries");

    String one = client.scheduleNewWorkflow(Approval.class, 3_600_000);
    client.waitForWorkflowStart(one, WAIT, true);
    client.raiseEvent(one, "decision", "yes");
    expect(end(one).readOutputAs(String.class).equals("yes"), "yes");
    expect(result(Approval.class, 50, String.class).equals("too late"), "too late");
    held("events and timers");

    WorkflowState failed = end(client.scheduleNewWorkflow(Broken.class));
    expect(failed.getRuntimeStatus() == WorkflowRuntimeStatus.FAILED, String.valueOf(failed));
    expect(failed.getFailureDetails().getErrorType().equals("java.lang.ArithmeticException"), "type");
    expect(failed.getFailureDetails().getErrorMessage().equals("one over nothing"), "message");
    held("failures");

    String paused = client.scheduleNewWorkflow(Approval.class, 3_600_000);
    client.suspendWorkflow(paused, "lunch");
    expect(status(paused) == WorkflowRuntimeStatus.SUSPENDED, "suspended");
    client.resumeWorkflow(paused, "coffee");
    client.raiseEvent(paused, "decision", "later");
    expect(end(paused).readOutputAs(String.class).equals("later"), "later");
    held("suspend and resume");

    String family = client.scheduleNewWorkflow(Family.class, null, "family-1");
    client.waitForWorkflowStart("family-1-child", WAIT, false);
    client.terminateWorkflow(family, "tired");
    expect(end(family).getRuntimeStatus() == WorkflowRuntimeStatus.TERMINATED, "terminated");
    expect(status("family-1-child") == WorkflowRuntimeStatus.RUNNING, "this SDK asks for the one alone");
    client.terminateWorkflow("family-1-child", "tired");
    expect(client.purgeWorkflow(family), "purged");
    expect(client.getWorkflowState(family, false).getName().isEmpty(), "gone");
    held("terminate and purge");

    Instant far = Instant.now().plusSeconds(3600);
    String never = client.scheduleNewWorkflow(Chain.class, new NewWorkflowOptions().setInput(1).setStartTime(far));
    expect(status(never) == WorkflowRuntimeStatus.PENDING, "pending");
    client.terminateWorkflow(never, "tired");
    expect(end(never).getRuntimeStatus() == WorkflowRuntimeStatus.TERMINATED, "never begun");
    Instant at = Instant.now().plusSeconds(1);
    String late = client.scheduleNewWorkflow(Chain.class, new NewWorkflowOptions().setInput(1).setStartTime(at));
    end(late);
    expect(!Instant.now().isBefore(at), "too early");
    held("a start at a given time");

    List<String> ids = new ArrayList<>();
    for (int number = 0; number < 30; number++) {
      ids.add(client.scheduleNewWorkflow(Chain.class, number));
    }
    for (int number = 0; number < 30; number++) {
      expect(end(ids.get(number)).readOutputAs(Integer.class) == number * 8, "many");
    }
    held("many at once");
  }
}
