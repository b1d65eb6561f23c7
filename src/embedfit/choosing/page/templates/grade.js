"use strict";
const by = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("[data-grade]")];
let state = null, shown = null, number = 0, passage = 0, busy = false, further = false;

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("embedfit grade can’t be reached. Start it again and open the address that it prints; your grades are kept.");
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(value.error || `The server answered ${answer.status}.`);
  return value;
}

function say(text, isError = false) {
  by("status").textContent = text;
  by("status").classList.toggle("error", isError);
}

const whole = () => state.questions.filter(([done, all]) => done === all).length;

/* The first question, from `start` on, that has a passage without a grade; questions beyond the goal only if asked for. */
function nextOpen(start) {
  const open = (n) => state.questions[n][0] < state.questions[n][1];
  const all = state.questions.map((_, n) => n);
  return [...all.slice(start), ...all.slice(0, start)].find(open);
}

function fill(target, text, spans) {
  const letters = Array.from(text);
  let at = 0;
  const parts = [];
  for (const [start, stop] of spans) {
    const mark = document.createElement("mark");
    mark.textContent = letters.slice(start, stop).join("");
    parts.push(letters.slice(at, start).join(""), mark);
    at = stop;
  }
  target.replaceChildren(...parts, letters.slice(at).join(""));
}

function progress() {
  const done = whole();
  by("bar").max = Math.max(state.goal, 1);
  by("bar").value = Math.min(done, state.goal);
  by("count").textContent = `${done} of ${further ? state.questions.length : state.goal} questions`;
}

function draw() {
  progress();
  const one = shown.passages[passage];
  by("question").textContent = shown.question;
  by("place").textContent = `Passage ${passage + 1} of ${shown.passages.length}: does it answer the question?`;
  by("heading").textContent = one.heading;
  fill(by("text"), one.text, one.marked);
  for (const button of buttons) button.setAttribute("aria-pressed", String(Number(button.dataset.grade) === one.grade));
  by("undo").disabled = number === 0 && passage === 0;
  for (const id of ["passage", "place", "asked", "question"]) by(id).hidden = false;
  by("end").hidden = true;
  window.scrollTo(0, 0);
}

function finish() {
  progress();
  const all = whole() === state.questions.length;
  shown = null;
  for (const id of ["passage", "place", "asked", "question"]) by(id).hidden = true;
  for (const button of buttons) button.setAttribute("aria-pressed", "false");
  by("end").hidden = false;
  by("end-title").textContent = all ? "All questions are graded." : `${whole()} questions are graded, which is enough.`;
  by("end-text").textContent = "Close this page. The next embedfit run, or embedfit choose, uses your grades.";
  by("more").hidden = all;
  by("undo").disabled = false;
}

async function show(n, p) {
  shown = await ask(`question/${n}`);
  number = n;
  const open = shown.passages.findIndex((one) => one.grade === null);
  passage = p === undefined ? Math.max(open, 0) : p < 0 ? shown.passages.length - 1 : p;
  draw();
}

async function goOn() {
  const next = nextOpen(number);
  if (next === undefined || (!further && whole() >= state.goal)) return finish();
  await show(next);
}

/* One thing at a time: a key that is held down must not grade what nobody has read. */
async function once(work) {
  if (busy || state === null) return;
  busy = true;
  by("main").setAttribute("aria-busy", "true");
  try {
    await work();
    say("");
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
    by("main").setAttribute("aria-busy", "false");
  }
}

const grade = (value) => once(async () => {
  if (shown === null) return;
  state = await ask("grade", { question: number, passage, grade: value });
  shown.passages[passage].grade = value;
  const next = shown.passages.findIndex((one) => one.grade === null);
  if (next < 0) return goOn();
  passage = next;
  draw();
});

/* Back to the passage before this one, which loses its grade. */
const undo = () => once(async () => {
  if (shown === null) {
    const last = state.questions.findLastIndex(([done]) => done > 0);
    await show(Math.max(last, 0), -1);
  } else if (passage > 0) {
    passage -= 1;
  } else if (number > 0) {
    await show(number - 1, -1);
  } else {
    return;
  }
  state = await ask("grade", { question: number, passage, grade: null });
  shown.passages[passage].grade = null;
  draw();
});

for (const button of buttons) button.addEventListener("click", () => grade(Number(button.dataset.grade)));
by("undo").addEventListener("click", undo);
by("more").addEventListener("click", () => { further = true; once(goOn); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (/^[0-3]$/.test(event.key)) grade(Number(event.key));
  else if (event.key === "u" || event.key === "Backspace") undo();
  else return;
  event.preventDefault();
});

(async () => {
  try {
    state = await ask("state");
    await goOn();
    say("");
  } catch (error) {
    say(error.message, true);
  }
  by("main").setAttribute("aria-busy", "false");
})();
