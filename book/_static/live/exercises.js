// Exercises in the page: the stub of each becomes a cell that can be edited, run and checked, and a solved
// one keeps its tick in this browser. live.js, where a page has it, runs the code; elsewhere the tools lead
// to Colab, and the reader ticks.

(() => {
  const live = window.liveCode; // absent where the code needs more than a browser has
  const colab = document.querySelector('.chapter-head a[href*="colab"]')?.href;

  // What this browser remembers of an exercise: {answer, solved}. It may refuse to.
  const recall = (id) => {
    try {
      return JSON.parse(localStorage.getItem(`exercise ${id}`)) ?? {};
    } catch {
      return {};
    }
  };
  const remember = (id, facts) => {
    try {
      localStorage.setItem(`exercise ${id}`, JSON.stringify({ ...recall(id), ...facts }));
    } catch { /* then the tick lasts as long as the page */ }
  };

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const button = (textContent, onclick) => make("button", { type: "button", textContent, onclick });
  const tick = () => make("span", { className: "solved", textContent: " ✓", title: "solved" });

  class Exercise {
    constructor(box, code) {
      this.id = box.id;
      this.stub = code.textContent.trimEnd();
      this.code = code.closest(".highlight");
      this.title = box.querySelector(".admonition-title");
      this.name = this.title.textContent.trim().match(/^\w+ [\d.]+/)?.[0] ?? "exercise";
      this.status = make("span", { role: "status" });
      this.tools = make("div", { className: "live-cell exercise-tools", role: "group", ariaLabel: `Answer of ${this.name}` });
      this.shown = make("div", { className: "live-output" });
      this.code.after(this.tools, this.shown);
      if (live) this.offer();
      else this.offerColab();
      this.showTick();
    }

    offer() {
      this.tools.replaceChildren(button("Run it here", () => this.open()), this.status);
      this.status.textContent = live.price;
    }

    offerColab() {
      const link = make("a", { href: colab, textContent: "Run it in Colab" });
      this.mark = button("", () => this.solve(!recall(this.id).solved));
      this.tools.replaceChildren(...(colab ? [link] : []), this.mark, this.status);
      this.status.textContent = "The chapter needs PyTorch, which does not run in a page.";
    }

    // Start Python, if need be, with the field already there to write in.
    async open() {
      if (!this.field) this.edit();
      this.follow(() => live.start()).then((started) => {
        if (!started) return;
        this.tools.replaceChildren(
          button("Check", () => this.run(this.field.value)),
          button("Run", () => this.run(this.field.value.replace(/^check_\w+\(.*\)\s*$/m, ""))),
          button("Begin anew", () => { this.field.value = this.stub; this.field.dispatchEvent(new Event("input")); }),
          button("Stop", live.stop),
          this.status,
        );
      });
    }

    edit() {
      this.field = live.editor(recall(this.id).answer ?? this.stub, `Answer of ${this.name}`, () => this.run(this.field.value));
      this.field.addEventListener("input", () => remember(this.id, { answer: this.field.value }));
      this.code.after(this.field);
      this.code.hidden = true;
      this.field.focus({ preventScroll: true });
    }

    // What live.js says meanwhile stands here too: its own line is at the top of the page.
    async follow(task) {
      const say = ({ detail }) => { this.status.textContent = detail; };
      document.addEventListener("live-status", say);
      const result = await task();
      document.removeEventListener("live-status", say);
      return result;
    }

    async run(code) {
      const outputs = await this.follow(() => live.run(code, this.name));
      if (!outputs) return; // stopped, or Python is busy
      const kinds = outputs.map(([kind]) => kind), wrong = kinds.includes("verdict"), broken = kinds.includes("error");
      const right = !wrong && !broken && outputs.some(([kind, text]) => kind === "text" && /^✓/m.test(text));
      this.status.textContent = wrong ? "Not right yet." : broken ? "It ended in an error." : right ? "Right." : "It has run.";
      this.shown.replaceChildren(...outputs.map(([kind, content]) => live.shownAs(kind, content, `Figure of ${this.name}`)));
      this.shown.classList.toggle("right", right);
      if (right) this.solve(true);
    }

    solve(solved) {
      remember(this.id, { solved });
      this.showTick(solved);
    }

    showTick(solved = recall(this.id).solved) {
      this.title.querySelector(".solved")?.remove();
      if (solved) this.title.append(tick());
      if (this.mark) this.mark.textContent = solved ? "Not solved after all" : "I have solved it";
    }
  }

  for (const box of document.querySelectorAll(".bd-article .exercise")) {
    const code = [...box.querySelectorAll(".highlight pre")].find((pre) => /^check_\w+\(/m.test(pre.textContent));
    if (code) new Exercise(box, code);
  }

  // The list of all exercises shows the ticks as well.
  for (const link of document.querySelectorAll('.bd-article li > p > a[href*="#ex-"]')) {
    if (recall(link.hash.slice(1)).solved) link.after(tick());
  }
})();
