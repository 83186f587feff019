// How the page asks the studio.

async function answered(answer) {
  const data = await answer.json().catch(() => ({ error: `the studio answered ${answer.status}` }));
  if (!answer.ok) throw new Error(data.error || `the studio answered ${answer.status}`);
  return data;
}

export async function ask(method, path, body, signal) {
  const told = { method, signal, headers: { "x-accord-studio": "1" } };
  if (body !== undefined) {
    told.headers["content-type"] = "application/json";
    told.body = JSON.stringify(body);
  }
  return answered(await reached(() => fetch(path, told)));
}

export async function send(file) {
  const told = { method: "POST", body: file, headers: { "x-accord-studio": "1", "content-type": "application/octet-stream" } };
  return answered(await reached(() => fetch(`/api/uploads?name=${encodeURIComponent(file.name)}`, told)));
}

async function reached(call) {
  try {
    return await call();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the studio does not answer; is it still open?");
  }
}

export const ended = (job) => ["done", "failed", "cancelled"].includes(job.state);
export const fileOf = (job, name) => `/api/jobs/${job.id}/files/${name}`;

// Events of a job: `see(kind, data)` until it has ended. Returns what stops it.
export function follow(job, see) {
  const source = new EventSource(`/api/jobs/${job.id}/events`);
  const kinds = ["job", "step", "preview", "rounds", "read", "judged", "frames"];
  for (const kind of kinds) {
    source.addEventListener(kind, (event) => {
      const data = JSON.parse(event.data);
      if (kind === "job" && ended(data)) source.close();
      see(kind, data);
    });
  }
  return () => source.close();
}

export function followAll(see) {
  const source = new EventSource("/api/events");
  source.addEventListener("job", (event) => see(JSON.parse(event.data)));
  return source;
}
