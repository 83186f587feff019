// The page: which room is open, which job it shows, and the list of jobs.

import { make } from "/page/frame.js";
import { ask, follow, followAll, ended } from "/page/api.js";
import { repair } from "/page/repair.js";
import { read } from "/page/read.js";
import { edit } from "/page/edit.js";
import { compare } from "/page/compare.js";

const id = (name) => document.getElementById(name);
const ROOMS = { repair, read, edit, compare };
const TITLES = { repair: "Repair", read: "Read", edit: "Edit", compare: "Compare" };
let about = null;
let open = { room: "", job: "", view: null, stop: () => {} };
const kept = {}; // a room as it was left
const known = new Map(); // jobs of the list

// --- light and dark --------------------------------------------------------------------------------------------------
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = "";
try {
  theme = localStorage.getItem("accord-theme") || "";
} catch { /* a browser that keeps nothing */ }
function setTheme() {
  const now = theme || (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = now;
  id("theme").setAttribute("aria-label", now === "dark" ? "switch to light" : "switch to dark");
}
id("theme").addEventListener("click", () => {
  theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("accord-theme", theme);
  } catch { /* likewise */ }
  setTheme();
});
dark.addEventListener("change", setTheme);
setTheme();

function notice(text) {
  id("notice").hidden = !text;
  id("notice").replaceChildren(text || "");
}

// --- rooms -----------------------------------------------------------------------------------------------------------
const context = {
  get about() { return about; },
  notice,
  async submit(room, asked) {
    notice("");
    try {
      const job = await ask("POST", `/api/${room}`, asked);
      location.hash = `#/${room}/${job.id}`;
    } catch (error) {
      notice(error.message);
    }
  },
};

for (const room of Object.keys(ROOMS)) id("rooms").append(make("a", { href: `#/${room}`, "data-room": room }, TITLES[room]));

async function go() {
  const [, asked = "", job = ""] = location.hash.split("/");
  const room = asked in ROOMS ? asked : "repair";
  for (const link of id("rooms").children) {
    if (link.dataset.room === room) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[room]} – Accord studio`;
  if (open.room !== room) {
    notice("");
    kept[room] = kept[room] || ROOMS[room](context);
    id("room").replaceChildren(kept[room].root);
  }
  open.stop();
  open = { room, job, view: kept[room], stop: () => {} };
  markJobs();
  if (!job) return;
  try {
    const found = await ask("GET", `/api/jobs/${job}`);
    if (open.job !== job) return;
    open.view.show(found, true);
    if (!ended(found)) {
      const view = open.view;
      open.stop = follow(found, (kind, data) => {
        if (kind === "job") view.show(data, false);
        else view.event(kind, data);
      });
    }
  } catch (error) {
    notice(error.message);
  }
}
addEventListener("hashchange", go);

// --- jobs ------------------------------------------------------------------------------------------------------------
const IS = { queued: "waiting", running: "at work", done: "done", failed: "failed", cancelled: "cancelled" };
function called(job) {
  const asked = job.request;
  if (job.room === "compare") return `${asked.a || "first"} and ${asked.b || "first"}`;
  return asked.prompt || asked.target || job.command.split("\n")[0].replace(/^accord invert (--inverter \S+ )?/, "");
}
function item(job) {
  const link = make("a", { href: `#/${job.room}/${job.id}`, "data-job": job.id }, make("span", { className: "what" }, called(job)), make("span", { className: "room" }, `${TITLES[job.room] || job.room} ${job.number}`), make("span", { className: `is ${job.state}` }, IS[job.state]));
  return make("li", {}, link);
}
function list() {
  const newest = [...known.values()].sort((a, b) => b.number - a.number).slice(0, 100);
  id("jobs").replaceChildren(...newest.map(item));
  id("no-jobs").hidden = newest.length > 0;
  markJobs();
}
function markJobs() {
  for (const link of id("jobs").querySelectorAll("a")) {
    if (link.dataset.job === open.job) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}
let listing = 0;
function listSoon() {
  clearTimeout(listing);
  listing = setTimeout(list, 60);
}

async function start() {
  try {
    about = await ask("GET", "/api/about");
    for (const job of (await ask("GET", "/api/jobs")).jobs) known.set(job.id, job);
  } catch (error) {
    notice(error.message);
    return;
  }
  list();
  const source = followAll((job) => {
    known.set(job.id, job);
    listSoon();
  });
  let lost = false;
  source.addEventListener("error", () => (lost = true));
  source.addEventListener("open", async () => {
    if (!lost) return;
    lost = false; // the studio was closed, and is open again
    for (const job of (await ask("GET", "/api/jobs")).jobs) known.set(job.id, job);
    list();
    if (open.job) go();
  });
  await go();
}
start();
