/* Results of the search lead to the words themselves: a text fragment at the end of each link. */
document.addEventListener("DOMContentLoaded", () => {
  const words = (new URLSearchParams(location.search).get("q") || "").trim().split(/\s+/).filter(Boolean);
  const results = document.getElementById("search-results");
  if (!results || !words.length) return;
  // A dash, a comma and an ampersand mean something in a fragment.
  const fragment = ":~:" + words
    .map((word) => "text=" + encodeURIComponent(word).replace(/-/g, "%2D"))
    .join("&");
  new MutationObserver(() => {
    for (const link of results.querySelectorAll("a[href]:not([data-lands])")) {
      link.dataset.lands = "";
      link.href += (link.href.includes("#") ? "" : "#") + fragment;
    }
  }).observe(results, { childList: true, subtree: true });
});
