// Python in a thread of its own, so that a page can be read while a cell computes. live.js starts it
// and sends one request at a time: {start: true}, then {code, name} for each cell.

let run;
const FRESH = { cache: "no-cache" }; // a book may change behind an address

onmessage = async ({ data }) => {
  try {
    postMessage({ done: data.start ? await start() : run(data.code, data.name) });
  } catch (error) {
    postMessage({ failed: error.message ?? String(error) });
  }
};

async function start() {
  const here = (file) => new URL(file, self.location);
  const answer = await fetch(here("environment.json"), FRESH);
  const environment = await answer.json();
  const lost = checkWhatIsFetched(environment.integrity);
  // Pyodide waits for ever for a file that does not come.
  run = await Promise.race([load(environment, here), lost]);
}

// Every file must come and be the one that _config.yml names. (The packages are checked by Pyodide
// against the sums in its lock file, which is one of these.) Returns a promise that only ever fails.
function checkWhatIsFetched(integrity) {
  const get = self.fetch;
  return new Promise((_, reject) => {
    self.fetch = async (what, options) => {
      const url = new URL(what.url ?? what, self.location);
      const sum = integrity[url.pathname.split("/").pop()];
      try {
        const answer = await get(what, sum ? { ...options, integrity: sum } : options);
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        return answer;
      } catch (error) {
        reject(new Error(`${url} could not be fetched`));
        throw error;
      }
    };
  });
}

async function load({ core, packages, packagesFrom, wheel }, here) {
  const status = (text) => postMessage({ status: text });
  const from = (file) => new URL(file, here(core)).href;
  const text = async (file) => (await fetch(from(file))).text();
  const module = async (file) => {  // import() itself would not check the sum
    const code = new Blob([await text(file)], { type: "text/javascript" });
    return import(URL.createObjectURL(code));
  };

  status("Fetching Python …");
  const [{ loadPyodide }, { default: createPyodideModule }, lockFileContents] = await Promise.all(
    [module("pyodide.mjs"), module("pyodide.asm.mjs"), text("pyodide-lock.json")]);
  const pyodide = await loadPyodide({
    indexURL: from(""), packageBaseUrl: here(packagesFrom).href, createPyodideModule, lockFileContents,
  });

  status(`Fetching ${packages.join(", ") || "no packages"} …`);
  await pyodide.loadPackage(packages, { messageCallback: () => {} });

  status("Installing ssm_core …");
  const library = await fetch(here(wheel), FRESH);
  pyodide.unpackArchive(await library.arrayBuffer(), "wheel");
  const cells = pyodide.globals.get("dict")();
  pyodide.runPython(await (await fetch(here("cells.py"), FRESH)).text(), { globals: cells });
  return cells.get("run");
}
