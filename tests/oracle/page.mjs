// Looks at HTML reports in a browser without a window: at two widths and in both colour schemes, clean by
// axe-core, nothing wider than the window, nothing fetched, no error, all of it reached by the keyboard.
//
//   llmstd validate A B --report html=report.html
//   npm install puppeteer-core axe-core
//   CHROMIUM=/usr/bin/chromium node tests/oracle/page.mjs report.html [more.html] [--shots FOLDER]
//
// Seen with axe-core 4.14.1, puppeteer-core 24.43.1 and Chromium 156. It exits with 1 where something is wrong.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

// The packages are those of the folder that this runs in.
const require = createRequire(join(process.cwd(), "package.json"));
const { default: puppeteer } = await import(pathToFileURL(require.resolve("puppeteer-core")).href);
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const words = process.argv.slice(2);
const at = words.indexOf("--shots");
const shots = at < 0 ? null : words.splice(at, 2)[1];
if (words.length === 0) throw new Error("name a report");
if (shots) mkdirSync(shots, { recursive: true });

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
let wrong = 0;
let looked = 0;
const fault = (where, what) => {
  wrong += 1;
  console.log(`${where}: ${what}`);
};

for (const file of words) {
  const url = pathToFileURL(resolve(file)).href;
  for (const width of [375, 1280]) {
    for (const scheme of ["light", "dark"]) {
      const where = `${basename(file)} ${width} ${scheme}`;
      const page = await browser.newPage();
      page.on("request", (request) => {
        if (request.url() !== url) fault(where, `fetches ${request.url()}`);
      });
      page.on("console", (message) => {
        if (message.type() === "error") fault(where, message.text());
      });
      page.on("pageerror", (error) => fault(where, String(error)));
      await page.setViewport({ width, height: 800 });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.goto(url);
      // As it opens, and with everything unfolded.
      for (const unfold of [false, true]) {
        if (unfold) {
          await page.$$eval("details", (all) => all.forEach((one) => (one.open = true)));
        }
        const state = `${where}${unfold ? " unfolded" : ""}`;
        const wide = await page.evaluate(() => {
          const root = document.scrollingElement;
          if (root.scrollWidth <= root.clientWidth) return [];
          const all = [...document.body.querySelectorAll("*")];
          const out = all.filter((one) => root.clientWidth < one.getBoundingClientRect().right);
          return out.map((one) => one.outerHTML.slice(0, 80));
        });
        if (wide.length) fault(state, `is wider than the window: ${wide.slice(0, 3).join(" ")}`);
        await page.evaluate(axe);
        const found = await page.evaluate(() =>
          axe.run(document, {
            runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
          }),
        );
        if (found.passes.length < 10) fault(state, `axe-core looked at ${found.passes.length} rules`);
        for (const { id, help, nodes } of found.violations) {
          fault(state, `${id}: ${help} (×${nodes.length}): ${nodes[0].html.slice(0, 200)}`);
        }
        if (shots) {
          const name = state.replaceAll(/[ .]/g, "-");
          await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
        }
        looked += 1;
      }
      // What can be used is reached by Tab, and shows that it is.
      const n = await page.$$eval("a[href], summary, [tabindex='0']", (all) => {
        const seen = all.filter((one) => one.getClientRects().length);
        return seen.length;
      });
      await page.evaluate(() => document.activeElement?.blur());
      const reached = new Set();
      for (let step = 0; step <= n; step += 1) {
        await page.keyboard.press("Tab");
        const one = await page.evaluate(() => {
          const active = document.activeElement;
          if (!active || active === document.body) return null;
          const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(active);
          const all = [...document.querySelectorAll("*")];
          const shown = outlineStyle !== "none" && outlineWidth !== "0px";
          return { index: all.indexOf(active), shown: shown || boxShadow !== "none", html: active.outerHTML.slice(0, 80) };
        });
        if (one === null) break;
        if (!one.shown) fault(where, `the focus is not seen on ${one.html}`);
        reached.add(one.index);
      }
      if (reached.size < n) fault(where, `Tab reaches ${reached.size} of ${n} things to use`);
      await page.close();
    }
  }
}
console.log(`${await browser.version()}: looked ${looked} times, ${wrong} faults`);
await browser.close();
process.exit(wrong === 0 ? 0 : 1);
