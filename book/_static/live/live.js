// Live code: a button that makes the cells of a page run in the reader's browser.
//
//   live.js            the page: button, cells, what they show
//   worker.js          a thread with Pyodide, which is Python as WebAssembly
//   cells.py           runs one cell there
//   exercises.js       makes cells of the stubs of exercises, and remembers which are solved
//   environment.json   what to fetch from where: written by tools/sphinx/live.py from _config.yml
//
// Why our own: Thebe wants a server, or a JupyterLite of 27 MB of its own, replaces the code by
// another editor, and its Sphinx extension was a JavaScript error on every page; JupyterLite opens
// another program beside the text. Here the cells stay where they are, the editor is a text field,
// and a page that nobody makes live has one button more.
//
// Nothing is fetched before the button is pressed. A classic script, because a browser loads no
// module from a file, and on a page from a file the button should say so.

(() => {
  const script = document.currentScript;
  const { host, megabytes } = script.dataset;

  const make = (tag, properties, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const button = (words, onclick, label = words) =>
    make("button", { type: "button", textContent: words, "aria-label": label, onclick });

  const cells = [...document.querySelectorAll(".bd-article .cell_input pre")].map((code, i) => ({
    number: i + 1,
    box: code.closest(".cell"),
    code: code.closest(".highlight"),
    text: code.textContent.trimEnd(),
    editor: null, // a text field, while the reader edits
    state: "", // "" (not run), "running", "done" or "error"
  }));

  // --- the bar below the title ------------------------------------------------------------------

  const status = make("p", { role: "status" });
  const say = (words) => {
    status.textContent = words;
    document.dispatchEvent(new CustomEvent("live-status", { detail: words }));
  };
  const start = button("Run the code of this page", async () => {
    if (await work(makeLive)) runAll.focus({ preventScroll: true });
  });
  const runAll = button("Run all cells", () => work(() => runUpTo(cells.length, true)));
  const stop = button("Stop", () => halt("Stopped. The next run starts Python again."));
  const bar = make("div", { className: "live", role: "group", "aria-label": "Live code" }, start, status);
  document.querySelector(".bd-article .chapter-head").after(bar);
  say(`Python as WebAssembly, about ${megabytes} MB from ${host}, is fetched when you press the ` +
      "button, and not before.");

  // --- Python -----------------------------------------------------------------------------------

  let worker = null;
  let pending = null; // how to answer whoever waits for the worker
  let busy = false;
  let made = false; // are the cells live?

  const ask = (message) => new Promise((resolve, reject) => {
    pending = { resolve, reject };
    worker.postMessage(message);
  });

  async function startPython() {
    if (worker) return;
    worker = new Worker(new URL("worker.js", script.src), { type: "module" });
    worker.onerror = (event) => pending.reject(new Error(event.message || "Python could not be fetched. Are you offline?"));
    worker.onmessage = ({ data }) => {
      if ("status" in data) say(data.status);
      else if ("failed" in data) pending.reject(new Error(data.failed));
      else pending.resolve(data.done);
    };
    await ask({ start: true });
  }

  // A cell that computes cannot be interrupted, so its thread ends, and all that it knew with it.
  function halt(why) {
    worker?.terminate();
    worker = null;
    for (const cell of cells) mark(cell, "");
    pending?.reject(new Error(why));
    say(why);
  }

  // One thing at a time; whatever goes wrong ends in one sentence. Gives what the task gives, if it succeeds.
  async function work(task) {
    if (busy) return say("Python is busy. Wait a little, or stop it.");
    busy = true;
    try {
      return await task();
    } catch (error) {
      halt(error.message);
    } finally {
      busy = false;
    }
  }

  async function makeLive() {
    if (location.protocol === "file:") {
      return say("This page was opened from a file, and a browser runs Python only on a page from a " +
                 "server, such as: python -m http.server");
    }
    if (!window.Worker || !window.WebAssembly) return say("This browser has no WebAssembly.");
    start.after(stop);
    try {
      await startPython();
    } catch (error) {
      stop.remove();
      throw new Error(`${worker ? error.message : "Stopped."} The page stays as it was.`);
    }
    cells.forEach(equip);
    start.replaceWith(runAll);
    made = true;
    say("Python is ready. Running a cell runs those above it first; in a cell that you edit, " +
        "Shift+Enter runs it.");
    return true;
  }

  // For answers to exercises, which stand in no cell of the page: they see what its cells have defined,
  // and leave nothing behind.
  window.liveCode = {
    price: `Fetches about ${megabytes} MB of Python, unless it runs already.`,
    editor: makeEditor,
    shownAs,
    start: () => made || work(makeLive),
    stop: () => stop.click(),
    run: (code, name) => work(async () => {
      await startPython();
      say(`${name} is running.`);
      return JSON.parse(await ask({ code, name, alone: true }));
    }),
  };

  // --- cells ------------------------------------------------------------------------------------

  const STATES = { "": "", running: "running …", done: "has run", error: "ended in an error" };

  function mark(cell, state) {
    cell.state = state;
    if (cell.mark) cell.mark.textContent = STATES[state];
  }

  function equip(cell) {
    cell.mark = make("span", {});
    cell.edit = button("Edit", () => edit(cell), `Edit in cell ${cell.number}`);
    const run = button("Run", () => work(() => runUpTo(cell.number)), `Run cell ${cell.number}`);
    const tools = make("div", { className: "live-cell" }, run, cell.edit, cell.mark);
    cell.stored = cell.box.querySelector(":scope > .cell_output");
    cell.shown = make("div", { className: "live-output cell_output" });
    cell.box.insertBefore(tools, cell.stored);
    cell.box.append(cell.shown);
  }

  // From the code as it is printed to a text field with it, and back. Tab leaves the field, as it
  // does any other, so that a keyboard is not caught in it.
  function edit(cell) {
    if (cell.editor) {
      cell.editor.remove();
      cell.editor = null;
    } else {
      cell.editor = makeEditor(cell.text, `Code of cell ${cell.number}`, () => work(() => runUpTo(cell.number)));
      cell.editor.addEventListener("input", () => mark(cell, ""));
      cell.code.after(cell.editor);
      cell.box.querySelector("details")?.setAttribute("open", "");
      cell.editor.focus();
    }
    mark(cell, "");
    cell.code.hidden = Boolean(cell.editor);
    cell.edit.textContent = cell.editor ? "Undo edits" : "Edit";
    cell.edit.setAttribute("aria-label", `${cell.edit.textContent} in cell ${cell.number}`);
  }

  // A field as high as its code, in which Shift+Enter runs it.
  function makeEditor(text, label, run) {
    const fit = () => { field.rows = field.value.split("\n").length + 1; };
    const field = make("textarea", {
      className: "live-code", value: text, wrap: "off", spellcheck: false, autocapitalize: "off",
      "aria-label": label, oninput: fit, onkeydown: (event) => typed(event, field, run),
    });
    fit();
    return field;
  }

  function typed(event, field, run) {
    if (event.key !== "Enter" || event.isComposing) return;
    if (event.shiftKey) {
      event.preventDefault();
      run();
    } else if (!event.ctrlKey && !event.altKey && !event.metaKey) {
      const line = field.value.slice(0, field.selectionStart).split("\n").pop();
      const indent = line.match(/^ */)[0] + (/:\s*$/.test(line) ? "    " : "");
      event.preventDefault();
      document.execCommand("insertText", false, `\n${indent}`); // keeps the field's own undo
    }
  }

  // Runs a cell, and before it those above that have not run as they stand, or all of them again.
  async function runUpTo(number, again = false) {
    await startPython();
    const waiting = cells.slice(0, number).filter((cell) =>
      again || cell.number === number || cell.state !== "done");
    for (const cell of waiting) {
      say(`Cell ${cell.number} of ${cells.length} is running.`);
      mark(cell, "running");
      const code = cell.editor ? cell.editor.value : cell.text;
      const outputs = JSON.parse(await ask({ code, name: `cell ${cell.number}` }));
      const failed = outputs.some(([kind]) => kind === "error" || kind === "verdict");
      show(cell, outputs, code !== cell.text);
      if (cell.state === "running") mark(cell, failed ? "error" : "done"); // else it was edited
      if (failed) {
        say(`Cell ${cell.number} ended in an error` +
            (cell.number < number ? `, so cell ${number} did not run.` : "."));
        return;
      }
    }
    say(`Cell ${number} has run.`);
  }

  // Pictures take the places of the stored ones, so that captions and numbers stay; all else that
  // was stored goes, and what the cell shows now stands below.
  function show(cell, outputs, edited) {
    if (!cell.pictures) {
      const stored = [...(cell.stored?.children ?? [])];
      const pictured = stored.filter((part) => part.querySelector('img[src*="_images/"]'));
      for (const part of stored) if (!pictured.includes(part)) part.remove();
      cell.pictures = pictured.map((part) => ({ part, image: part.querySelector("img") }));
      for (const picture of cell.pictures) picture.alt = picture.image.alt;
    }
    cell.shown.replaceChildren();
    const places = [...cell.pictures];
    for (const [kind, content] of outputs) {
      if (kind === "png") {
        const place = places.shift();
        const image = shownAs(kind, content, (!edited && place?.alt) || `Figure that cell ${cell.number} drew`);
        if (!place) {
          cell.shown.append(image);
          continue;
        }
        place.image.src = image.src;
        place.image.alt = image.alt;
        place.part.hidden = false;
      } else {
        cell.shown.append(shownAs(kind, content));
      }
    }
    for (const { part } of places) part.hidden = true;
  }

  // One thing that a cell shows: text, an error, a verdict, HTML or a picture.
  function shownAs(kind, content, alt) {
    if (kind === "png") return make("img", { src: `data:image/png;base64,${content}`, alt });
    if (kind === "html") return document.createRange().createContextualFragment(content); // scripts run
    return make("pre", { className: `live-${kind}`, tabIndex: 0, textContent: content });
  }
})();
