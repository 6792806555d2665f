// Python in a thread of its own, so that a page can be read while a cell computes. live.js starts it
// and sends one request at a time: {start: true}, then {code, name, alone} for each cell.

let run;
const FRESH = { cache: "no-cache" }; // a book may change behind an address

onmessage = async ({ data }) => {
  try {
    postMessage({ done: data.start ? await start() : run(data.code, data.name, Boolean(data.alone)) });
  } catch (error) {
    postMessage({ failed: error.message ?? String(error) });
  }
};

async function start() {
  const here = (file) => new URL(file, self.location);
  const fetched = fetch(here("environment.json"), FRESH).then((answer) => answer.json());
  const environment = await fetched.catch(() => { throw notFetched(here("environment.json")); });
  const lost = checkWhatIsFetched(environment.integrity);
  const loaded = load(environment, here).catch((error) => {
    throw new Error(`Python did not start: ${error.message}.`);
  });
  // Pyodide waits for ever for a file that does not come.
  run = await Promise.race([loaded, lost]);
}

// The reader gets a sentence, the console the address.
function notFetched(url) {
  console.warn(`${url} could not be fetched`);
  return new Error("Python could not be fetched. Are you offline?");
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
        reject(notFetched(url));
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
