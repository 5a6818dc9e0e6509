// The script of the page: asks for the state of all locks once a second, and writes into the tables what has changed.
// Rules: what comes from others (names of resources, holders, nodes) becomes text or an encoded part of a path, never
// markup; a cell that did not change is left alone, so that a link can be clicked and a text marked.
(function () {
  "use strict";

  const EVERY_MS = 1000;
  const PAUSE_MS = 100;
  const PATIENCE_MS = 10000;
  const page = document.getElementById("locks-page");
  let shownAt = "";

  function write(id, text) {
    document.getElementById(id).textContent = text;
  }

  function says(text, isLive) {
    const indicator = document.getElementById("locks-indicator");
    indicator.classList.toggle("status-dot-live", isLive);
    indicator.classList.toggle("status-dot-error", !isLive);
    write("locks-status", text);
  }

  // The red box at the top; an empty text hides it.
  function warn(text, items) {
    const box = document.getElementById("locks-problem");
    const now = JSON.stringify([text, items]);
    if (box.shows !== now) {
      box.shows = now;
      box.hidden = !text;
      write("locks-problem-text", text);
      const lines = items.map((item) => {
        const line = document.createElement("li");
        line.textContent = item;
        return line;
      });
      document.getElementById("locks-problem-nodes").replaceChildren(...lines);
    }
  }

  // A part of a cell: {text, path, classes, title}; with a path it is a link.
  function drawn(part) {
    const element = document.createElement(part.path ? "a" : "span");
    element.textContent = part.text;
    element.className = part.classes || "";
    if (part.path) {
      element.setAttribute("href", part.path);
    }
    if (part.title) {
      element.title = part.title;
    }
    return element;
  }

  // A row is a list of cells, a cell is {classes, parts}.
  function fill(id, rows, nothing) {
    const body = document.getElementById(id).tBodies[0];
    const columns = document.getElementById(id).tHead.rows[0].cells.length;
    const all = rows.length ? rows : [[{ classes: "lock-note text-center", parts: [{ text: nothing }] }]];
    while (body.rows.length > all.length) {
      body.deleteRow(-1);
    }
    all.forEach((cells, place) => {
      const row = body.rows[place] || body.insertRow();
      while (row.cells.length > cells.length) {
        row.deleteCell(-1);
      }
      cells.forEach((cell, column) => {
        const field = row.cells[column] || row.insertCell();
        const now = JSON.stringify(cell);
        if (field.shows !== now) {
          field.shows = now;
          field.className = cell.classes || "";
          field.colSpan = rows.length ? 1 : columns;
          field.replaceChildren(...cell.parts.map(drawn));
        }
      });
    });
  }

  function cell(text, classes, title) {
    return { classes: classes, parts: [{ text: text === null ? "—" : String(text), title: title }] };
  }

  function link(root, name, text) {
    return { classes: "text-nowrap", parts: [{ text: text, path: root + encodeURIComponent(name), title: name }] };
  }

  // The first digits of a UUID, as the logs have them too; other ids as they are.
  function short(id) {
    return /^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(id) ? id.slice(0, 8) : id;
  }

  function seconds(value) {
    return value === null ? null : value.toFixed(1) + " s";
  }

  function votes(lock, nodes, isKnown) {
    const dots = lock.votes.map((vote, place) => {
      const means = vote ? "votes for it" : vote === null ? "has not answered" : "does not vote for it";
      const looks = vote ? "text-success" : vote === null ? "text-danger" : "text-secondary";
      return { text: vote ? "●" : "○", classes: "lock-vote " + looks, title: nodes[place].name + " " + means };
    });
    const count = lock.votes.filter(Boolean).length;
    const parts = [{ text: count + "/" + nodes.length + " " }].concat(dots);
    if (!lock.held && isKnown) {
      parts.push({ text: " no quorum", classes: "lock-note", title: "an attempt, or what is left of a lease" });
    } else if (!lock.held) {
      parts.push({ text: " unconfirmed", classes: "text-danger fw-semibold", title: "too few nodes report their locks" });
    }
    return { classes: "text-nowrap", parts: parts };
  }

  function clock(text) {
    const at = text && new Date(text);
    return at ? cell(at.toLocaleTimeString(), "text-nowrap", at.toLocaleString()) : cell(null);
  }

  function waiterRow(waiter) {
    return [
      cell(waiter.resource, "lock-resource"),
      cell(waiter.position, "text-center"),
      waiter.task ? link(page.dataset.task, waiter.task, short(waiter.task)) : cell(waiter.waiter),
      waiter.worker ? link(page.dataset.worker, waiter.worker, waiter.worker) : cell(null),
      clock(waiter.since),
      cell(short(waiter.holder.split("@")[0]) || null, "", waiter.holder),
    ];
  }

  function lockRow(lock, nodes, isKnown) {
    return [
      cell(lock.resource, "lock-resource"),
      lock.task ? link(page.dataset.task, lock.task, short(lock.task)) : cell(lock.holder),
      lock.worker ? link(page.dataset.worker, lock.worker, lock.worker) : cell(null),
      clock(lock.since),
      cell(seconds(lock.remaining), "text-end text-nowrap"),
      votes(lock, nodes, isKnown),
      cell(lock.fence || null, "text-end text-nowrap"),
      lock.waiters === null
        ? cell("some", "text-center", "how many can't be told: other clients may wait on the same node")
        : cell(lock.waiters, "text-center"),
    ];
  }

  function complaint(node) {
    return [node.says, node.clock_note].filter(Boolean).join("; ");
  }

  function nodeRow(node, place, locks) {
    const looks = { votes: "text-bg-success", abstains: "text-bg-warning" }[node.health] || "text-bg-danger";
    const answers = node.health !== "silent";
    return [
      cell(node.name, "fw-semibold text-nowrap"),
      { parts: [{ text: node.health, classes: "badge " + looks }] },
      cell(complaint(node), node.health === "votes" && node.clock_note ? "text-danger" : ""),
      cell(node.version || null),
      cell(node.clock === null ? null : Math.round(node.clock * 1000) + " ms", "text-end text-nowrap"),
      cell(answers ? (node.memory / 1e6).toFixed(1) + " MB" : null, "text-end text-nowrap"),
      cell(answers ? locks.filter((lock) => lock.votes[place]).length : null, "text-end"),
    ];
  }

  function show(data) {
    const held = data.locks.filter((lock) => lock.held);
    const waited = data.locks.filter((lock) => lock.waiters !== 0);
    const waitedFor = new Set(waited.concat(data.waiters).map((one) => one.resource));
    const voting = data.nodes.filter((node) => node.health === "votes");
    write("locks-held", data.is_known ? held.length : held.length + " known");
    write("locks-waited", waitedFor.size);
    write("locks-voting", voting.length + "/" + data.nodes.length);
    write("locks-silent", data.nodes.length - voting.length);
    const rows = data.locks.map((lock) => lockRow(lock, data.nodes, data.is_known));
    const none = data.more ? "No lock is held among the names that were read" : "No lock is held";
    fill("locks-table", rows, data.is_known ? none : "The remaining nodes report no lock (unconfirmed)");
    fill("waiters-table", data.waiters.map(waiterRow), data.is_known ? "Nothing waits" : "No waiter is reported");
    fill("nodes-table", data.nodes.map((node, place) => nodeRow(node, place, data.locks)), "");
    document.getElementById("locks-more").hidden = !data.more;
    const troubled = data.nodes.filter(complaint);
    warn(data.problem, troubled.map((node) => node.name + ": " + complaint(node)));
  }

  async function ask() {
    const began = performance.now();
    try {
      // With its origin: a page that was opened as http://user:password@... must not ask for a relative address.
      const address = new URL(page.dataset.url, location.origin);
      const answer = await fetch(address, { signal: AbortSignal.timeout(PATIENCE_MS), redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 401) {
        throw new Error("Load the page again to sign in");
      }
      if (!(answer.headers.get("Content-Type") || "").includes("json")) {
        throw new Error("Flower answers " + answer.status);
      }
      const data = await answer.json();
      if (data.error) {
        throw new Error(data.error);
      }
      show(data);
      shownAt = new Date().toLocaleTimeString();
      says((data.problem ? "No quorum · " : "Live · ") + shownAt, !data.problem);
    } catch (error) {
      // What fetch itself raises (a TypeError, or the end of our patience) says nothing to a person.
      const text = error.constructor === Error ? error.message : "Flower does not answer";
      says(text, false);
      warn(text + (shownAt ? ". The tables below show the state of " + shownAt + "." : ""), []);
    }
    if (page.dataset.refresh === "yes") {
      setTimeout(ask, Math.max(PAUSE_MS, EVERY_MS - (performance.now() - began)));
    }
  }

  ask();
}());
