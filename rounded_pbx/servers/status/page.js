"use strict";
// Whatever a caller, the API or the configuration says gets into the page by textContent only.
(() => {
  const MOST = 200, MINUTES = 60, WIDTH = 10, HEIGHT = 100, SILENCE = 25000, AGAIN = 3000;
  const KEPT = "rounded_pbx filter";
  const GROUPS = {STAGED: "staged", INITIATED: "initiated", HANGUP: "hangup"};
  const ORDER = ["staged", "initiated", "failed", "hangup"];
  const MARKS = {ok: "\u25cf", warning: "\u25b2", bad: "\u25a0"};
  const COLUMNS = ["time", "outcome", "did", "caller", "route", "ms", "id", "reason"];
  const id = (name) => document.getElementById(name);
  const body = id("calls"), filter = id("filter"), hold = id("hold");

  let total = -1, minute = 0, offset = 0, minutes = [], held = [], source = null, timer = 0;

  const groupOf = (outcome) => Object.hasOwn(GROUPS, outcome) ? GROUPS[outcome] : "failed";

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function make(name, className, text) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function timeText(seconds) {
    return new Date((seconds + offset) * 1000).toISOString().slice(0, 19).replace("T", " ");
  }

  // The calls.

  function addCopy(cell) {
    const code = cell.querySelector("code");
    if (!code || !code.textContent) return;
    const button = make("button", "copy", "Copy");
    button.type = "button";
    button.setAttribute("aria-label", "Copy the call id " + code.textContent);
    code.after(" ", button);
  }

  function rowOf(call) {
    const [time, outcome, did, caller, route, ms, callId, uniqueId, reason] = call;
    const row = make("tr", groupOf(outcome));
    const texts = [timeText(time), outcome, did, caller, route, String(ms), "", reason];
    COLUMNS.forEach((name, index) => row.append(make("td", name, texts[index])));
    const cell = row.querySelector(".id");
    cell.append(make("code", "", callId), " ", make("small", "", uniqueId));
    addCopy(cell);
    return row;
  }

  function wanted(row, words, digits) {
    const text = row.textContent.toLowerCase();
    if (words.every((word) => text.includes(word))) return true;
    if (digits.length < 7) return false;
    // As it is dialled at home or abroad; and a caller's last four digits are not there.
    if (row.querySelector(".did").textContent.endsWith(digits)) return true;
    return row.querySelector(".caller").textContent.replaceAll("*", "").endsWith(digits.slice(0, -4));
  }

  function show(rows) {
    const text = filter.value.trim().toLowerCase();
    const words = text.split(/\s+/);
    const digits = /^[+\d\s().-]*$/.test(text) ? text.replace(/\D/g, "").replace(/^0+/, "") : "";
    for (const row of rows) row.hidden = Boolean(text) && !wanted(row, words, digits);
    const hidden = body.querySelectorAll("tr[hidden]").length;
    const waiting = held.length ? `${held.length}${held.length < MOST ? "" : " or more"} held back` : "";
    const shown = text ? `${body.rows.length - hidden} of ${body.rows.length} shown` : "";
    say(id("shown"), [shown, waiting].filter(Boolean).join(", "));
  }

  function add(calls) {
    const rows = calls.slice(-MOST).map(rowOf).reverse();
    body.prepend(...rows);
    while (body.rows.length > MOST) body.lastElementChild.remove();
    return rows;
  }

  function take(calls) {
    if (hold.checked) {
      held = held.concat(calls).slice(-MOST);
      show([]);
    } else {
      show(add(calls));
    }
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {  // not over plain HTTP from another machine
      getSelection().selectAllChildren(code);
      if (!document.execCommand("copy")) return;
      getSelection().removeAllRanges();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  // The plots: as the daemon draws them for a page without JavaScript.

  function nice(value) {
    for (let step = 1; ; step *= 10) {
      for (const factor of [1, 2, 5]) if (value <= factor * step) return factor * step;
    }
  }

  function rect(index, height, top, className) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const shape = {x: index * WIDTH + 1, y: top.toFixed(1), width: WIDTH - 2, height: height.toFixed(1)};
    element.setAttribute("class", className);
    for (const [name, value] of Object.entries(shape)) element.setAttribute(name, value);
    return element;
  }

  function draw() {
    const bars = [], ranges = [], totals = new Map();
    const sums = minutes.map(([outcomes]) => Object.values(outcomes).reduce((a, b) => a + b, 0));
    const most = nice(Math.max(0, ...sums)), longest = nice(Math.max(0, ...minutes.map((m) => m[2] || 0)));
    minutes.forEach(([outcomes, p50, p95], index) => {
      const groups = new Map(ORDER.map((name) => [name, 0]));
      for (const [outcome, count] of Object.entries(outcomes)) {
        groups.set(groupOf(outcome), groups.get(groupOf(outcome)) + count);
        totals.set(outcome, (totals.get(outcome) || 0) + count);
      }
      let top = HEIGHT;
      for (const [name, count] of groups) {
        const height = HEIGHT * count / most;
        top -= height;
        if (count) bars.push(rect(index, height, top, name));
      }
      for (const [name, value] of [["p95", p95], ["p50", p50]]) {
        const height = HEIGHT * value / longest;
        if (value !== null) ranges.push(rect(index, height, HEIGHT - height, name));
      }
    });
    id("calls_plot").replaceChildren(...bars);
    id("ms_plot").replaceChildren(...ranges);
    say(id("calls_plot_most"), String(most));
    say(id("ms_plot_most"), `${longest} ms`);
    const counted = [...totals].sort(([a], [b]) => (a < b ? -1 : 1));
    say(id("outcomes"), (counted.map((pair) => pair.join(" ")).join(", ") || "No calls") + ".");
  }

  function count(now, newest) {
    const passed = minutes.length ? Math.min(now - minute, MINUTES) : MINUTES;
    minutes = minutes.slice(passed);
    while (minutes.length < MINUTES) minutes.push([{}, null, null]);
    minutes.splice(MINUTES - newest.length, newest.length, ...newest);
    minute = now;
  }

  // What is beside calls.

  function judge(level, text) {
    const health = id("health");
    if (health.textContent === `${MARKS[level]} ${text}`) return;
    const mark = make("span", "", MARKS[level]);
    mark.setAttribute("aria-hidden", "true");
    health.className = level;
    health.replaceChildren(mark, " ", make("b", "", text));
    document.title = `${text} \u00b7 ${document.title.split(" \u00b7 ").pop()}`;
  }

  function accounts(list) {
    id("accounts").replaceChildren(...list.map(([name, open, problem]) => {
      const row = make("tr"), head = make("th", "", name);
      head.scope = "row";
      const api = problem === null ? make("td", "", "not asked yet")
        : problem ? make("td", "bad", problem) : make("td", "ok", "answers");
      row.append(head, make("td", open ? "bad" : "ok", open ? "open" : "closed"), api);
      return row;
    }));
  }

  // The stream.

  function received(event) {
    const message = JSON.parse(event.data);
    alive();
    if (message.page !== document.body.dataset.page) {  // another configuration, or another start
      source.close();
      clearTimeout(timer);
      setTimeout(loadAnew, 1500);
      return;
    }
    if (!message.snapshot && message.from !== total) return connect();  // one was missed
    offset = message.offset;
    if (message.snapshot) {
      held = [];
      body.replaceChildren();
      minutes = [];
      show(add(message.calls));
    } else if (message.calls.length) {
      take(message.calls);
    }
    total = message.total;
    count(message.minute, message.minutes);
    draw();
    judge(...message.health);
    const counts = ["total", "in_flight", "prestaged", "dropped", "refused"];
    counts.forEach((name, index) => say(id(name), String(message.counts[index])));
    if (message.accounts) accounts(message.accounts);
    say(id("live"), `Live; as of ${timeText(message.now)}.`);
  }

  function loadAnew() {
    try {
      sessionStorage.setItem(KEPT, filter.value);
    } catch {  // a browser that stores nothing
    }
    location.reload();
  }

  function keptFilter() {
    try {
      const kept = sessionStorage.getItem(KEPT);
      sessionStorage.removeItem(KEPT);
      return kept || "";
    } catch {
      return "";
    }
  }

  function lost() {
    judge("warning", "No word from the daemon");
    say(id("live"), "No live updates: trying again.");
    if (!source || source.readyState === EventSource.CLOSED) {
      clearTimeout(timer);
      timer = setTimeout(connect, AGAIN);
    }
  }

  function alive() {
    clearTimeout(timer);
    timer = setTimeout(() => { lost(); connect(); }, SILENCE);
  }

  function connect() {
    if (source) source.close();
    source = new EventSource("events");
    source.onmessage = received;
    source.onerror = lost;
    alive();
  }

  for (const cell of body.querySelectorAll(".id")) addCopy(cell);
  body.addEventListener("click", (event) => {
    if (event.target.className === "copy") copy(event.target);
  });
  filter.addEventListener("input", () => show(body.rows));
  hold.addEventListener("change", () => {
    const calls = held;
    held = [];
    if (!hold.checked) show(add(calls));
  });
  filter.value = keptFilter();
  show(body.rows);
  id("tools").hidden = false;
  connect();
})();
