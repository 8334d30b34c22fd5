/** Where the pages begin: who looks, in which language and light, and where; then what is drawn. */
import { render } from "preact";

import { App } from "./app";
import { restoreLanguage } from "./language";
import { keepLive } from "./now";
import { followAddress } from "./route";
import { restore } from "./session";
import { restoreTheme } from "./theme";
import "./style/base.css";
import "./style/parts.css";
import "./style/pages.css";

restore();
restoreTheme();
restoreLanguage();
// A link with a token may also be opened in a tab that shows the pages already; the address is cleaned first.
addEventListener("hashchange", restore);
followAddress();
keepLive();
render(<App />, document.getElementById("app")!);
