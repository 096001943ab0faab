//! The commonest mistakes, as a person is told of them: see `page.txt`.

use std::collections::BTreeMap;

use dockerfile::{SourceText, lint};
use expect_test::expect_file;

const WRONG: [&str; 34] = [
    "",
    "# only a comment\n",
    "RUN make\n",
    "FROM alpine\nRUNN make\n",
    "FROM alpine\nRUN make\n    --all\n",
    "FROM alpine AS build AS final\n",
    "FROM alpine AS 1build\n",
    "FROM Alpine\n",
    "ARG BASE\nFROM $BASE\n",
    "FROM --platform=linux/ alpine\n",
    "FROM alpine\nCOPY app.py\n",
    "FROM alpine\nCOPY --form=build /a /b\n",
    "FROM alpine AS a\nCOPY --from=b /x /\nFROM a AS b\nCOPY --from=a /x /\n",
    "FROM alpine\nARG FROM_IMAGE=x\nCOPY --from=$FROM_IMAGE /x /\n",
    "FROM alpine\nRUN <<END\nmake\nmake install\n",
    "FROM alpine\nENV NAME\n",
    "FROM alpine\nENV A=1 B\n",
    "FROM alpine\nENV A=${B\n",
    "FROM alpine\nLABEL a=\"not closed\n",
    "FROM alpine\nWORKDIR ${DIR:?is needed}\n",
    "FROM alpine\nENV A=${B^^}\n",
    "FROM alpine\nSHELL /bin/bash -c\n",
    "FROM alpine\nHEALTHCHECK curl localhost\n",
    "FROM alpine\nHEALTHCHECK --interval=1us CMD true\n",
    "FROM alpine\nONBUILD ONBUILD RUN make\n",
    "FROM alpine\nEXPOSE 99999\n",
    "FROM alpine\nSTOPSIGNAL SIGNOTHING\n",
    "FROM alpine\nRUN --mount=type=cahce,target=/x make\n",
    "FROM alpine\nRUN --mount=tpye=cache,target=/x make\n",
    "FROM alpine\nRUN --mount=type=cache,target=/x,sharing=one make\n",
    "FROM alpine\nRUN --network=internet make\n",
    "# escape=x\nFROM alpine\n",
    "# check=error=true\nFROM alpine\nWORKDIR app\n",
    "from alpine as Build\nMAINTAINER me\nENV TOKEN x\nARG PASSWORD\nWORKDIR app\nRUN echo $NOTHING \\\n\n  done\n\
     CMD make\nCMD serve\nEXPOSE 80:80\nEXPOSE 81/TCP\nFROM --platform=linux/amd64 alpine AS Build\n\
     FROM --platform=$TARGETPLATFORM alpine AS scratch\n",
];

#[test]
fn every_mistake_is_told_with_its_place_and_its_mend() {
    let mut page = String::new();
    for text in WRONG {
        let source = SourceText {
            filename: "Dockerfile".to_owned(),
            data: text.into(),
            ignore: None,
        };
        let report = lint(&source, &BTreeMap::new()).unwrap();
        assert!(!report.is_clean(), "{text}");
        page += &report.page("Dockerfile", text.as_bytes());
        page += "\n";
    }
    expect_file!["./page.txt"].assert_eq(&page);
}
